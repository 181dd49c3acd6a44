"""How long a table may take and what it may need, told before anything is downloaded.

Matmul FLOPs of Qwen2.5-VL by the closed forms of its layers; one multiply-add is 2. Per text that
the policy writes, all of it is an upper bound by the limits of pixels and tokens, at rates that are
assumed: real pictures are mostly smaller and real answers shorter. A conversation is counted as one
text.
"""

import re
from dataclasses import dataclass

from replay_adapters.runs.plan import Cell

_PATCH = 28 * 28  # pixels of one visual token
_VISION = 5.51e9  # FLOPs of the vision tower for one visual token: 32 blocks of width 1,280
_TEXT = 200  # tokens of a prompt beside the picture's
_GENERATED = 1024  # lmms-eval's usual limit, where a pair has none
_FRAME_PAIR = 2  # frames that one visual token is of


@dataclass(frozen=True)
class Size:
    """A Qwen2.5-VL's text decoder, as its config has it."""

    layers: int
    hidden: int
    inner: int
    kv: int
    vocabulary: int = 152_064

    @property
    def layer(self) -> float:
        """FLOPs of one token through one layer, without attention over others."""
        return 2.0 * self.hidden * (2 * self.hidden + 2 * self.kv + 3 * self.inner)

    @property
    def weights(self) -> float:
        """Parameters of the decoder's layers, and of both ends of the vocabulary."""
        return self.layers * self.layer / 2 + 2 * self.vocabulary * self.hidden


SIZES = {
    "3b": Size(36, 2048, 11_008, 256, 151_936),
    "7b": Size(28, 3584, 18_944, 512),
    "32b": Size(64, 5120, 27_648, 1024),
    "72b": Size(80, 8192, 29_568, 1024),
}
"""By the number in a checkpoint's name: hidden size, MLP and KV width of the published configs."""

_VISION_WEIGHTS = 0.68e9


@dataclass(frozen=True)
class Estimate:
    """What one cell may need: seconds per item in its parts, hours in all, and memory.

    Memory is that of the weights in 16 bits, of the activations that the backward pass keeps, and
    of the keys and values of one item.
    """

    loop: float
    decoding: float
    hours: float | None
    gigabytes: float
    visual_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Rates:
    """What the machine is taken to do: matmul TFLOP/s that are reached, and GB/s of memory."""

    tflops: float = 300.0
    bandwidth: float = 2000.0


def size_of(checkpoint: str) -> Size | None:
    """Return the size that a checkpoint's name tells; None where it tells none that is known."""
    found = re.search(r"(\d+)[bB]\b", checkpoint.replace("_", "-"))
    return SIZES.get(f"{found.group(1)}b") if found else None


def estimate(cell: Cell, rates: Rates) -> Estimate | None:
    """Return what a cell may need; None for a model whose size is not known."""
    settings = cell.settings
    size = size_of(settings.pair.base) or size_of(settings.pair.policy)
    if size is None:
        return None
    protocol, config = settings.protocol, settings.config
    pixels = int(settings.rest.get("max_pixels") or protocol.max_pixels or 1280 * _PATCH)
    frames = protocol.max_num_frames
    visual = pixels // _PATCH * (frames // _FRAME_PAIR if frames else 1)
    prompt = visual + _TEXT
    new = int(protocol.generation.get("max_new_tokens", _GENERATED))
    layers = len(config.layer_indices(size.layers)) if config.asks_base else 0
    vision, prefill = _VISION * visual, size.layers * size.layer * prompt
    loop = 0.0
    if config.method == "replay":
        # The base's layers and its lens once, then forward and backward to x at every step.
        head = 2.0 * size.vocabulary * size.hidden * visual * layers
        loop = layers * size.layer * visual * (1 + 2 * config.steps) + head
    elif config.method == "inject":
        loop = size.layers * size.layer * prompt
    per_item = (vision + prefill + loop) / (rates.tflops * 1e12)
    decoding = new * 2 * size.weights / (rates.bandwidth * 1e9)
    base = 2 * (size.weights * layers / size.layers + _VISION_WEIGHTS) if config.asks_base else 0.0
    policy = 2 * (size.weights + _VISION_WEIGHTS)
    # Activations that the backward pass needs: about 20 vectors of the hidden size per layer.
    kept = 20 * 2 * visual * size.hidden * layers if config.method == "replay" else 0.0
    hours = None if cell.items is None else cell.items * (per_item + decoding) / 3600
    cache = 2 * 2 * size.layers * size.kv * (prompt + new)  # keys and values, two bytes each
    gigabytes = (policy + base + kept + cache) / 1e9
    return Estimate(per_item, decoding, hours, gigabytes, visual, new)
