"""Models of a given shape with random weights, and prompts with a given number of visual tokens.

Costs depend on shapes alone; what the weights are does not matter, except that the policy must
differ from its base, or the loop would end at once.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
)

from replay_core.pair.pair import Pair, make_pair

_VISION_START, _VISION_END, _IMAGE, _VIDEO, _END = 1, 2, 3, 4, 5
_FIRST_WORD = 8


@dataclass(frozen=True)
class Shape:
    """The numbers that a Qwen2.5-VL's cost depends on, in transformers' own names."""

    hidden_size: int = 512
    intermediate_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    vocab_size: int = 32768
    vision_hidden_size: int = 160
    vision_intermediate_size: int = 427
    vision_depth: int = 4
    vision_heads: int = 2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


SMALL = Shape()
QWEN2_5_VL_7B = Shape(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    vision_hidden_size=1280,
    vision_intermediate_size=3420,
    vision_depth=32,
    vision_heads=16,
)


def config_of(shape: Shape) -> Qwen2_5_VLConfig:
    """Return transformers' configuration of a shape."""
    half = shape.head_dim // 2
    rope = {
        "rope_type": "default",
        "mrope_section": [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8],
        "rope_theta": 1e6,
    }
    text = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 32768,
        "rope_parameters": rope,
        "bos_token_id": _END,
        "eos_token_id": _END,
        "pad_token_id": _END,
    }
    vision = {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_hidden_size,
        "intermediate_size": shape.vision_intermediate_size,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden_size,
        "fullatt_block_indexes": list(range(shape.vision_depth // 4 - 1, shape.vision_depth, 8))
        or [0],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=_IMAGE,
        video_token_id=_VIDEO,
        vision_start_token_id=_VISION_START,
        vision_end_token_id=_VISION_END,
        tie_word_embeddings=False,
    )


def random_pair(
    shape: Shape,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> Pair:
    """Return a pair of a shape whose policy is its base plus noise in the language model.

    The weights are drawn on ``device``, and never stand on another.
    """
    torch.manual_seed(0)
    base = _random_model(shape, device, dtype, attention)
    policy = copy.deepcopy(base)
    with torch.no_grad():
        for weight in policy.get_decoder().layers.parameters():
            if weight.ndim == 2:
                weight.add_(torch.randn_like(weight), alpha=0.2 * float(weight.std()))
    return make_pair(policy, base, name="random")


def _random_model(shape: Shape, device: str, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    with torch.device(device):
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(
            config_of(shape), dtype=dtype, attn_implementation=attention
        )
    model.generation_config = GenerationConfig(
        bos_token_id=_END, eos_token_id=_END, pad_token_id=_END, do_sample=False
    )
    return model.eval()


@dataclass(frozen=True)
class Prompt:
    """One prompt with one image: words before it, its tokens, words behind it."""

    before: int
    visual: int
    behind: int

    @property
    def tokens(self) -> int:
        """S, the length of the prompt; two tokens more frame the image."""
        return self.before + self.visual + self.behind

    def inputs(self, shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
        """Return what a processor would: ids, masks, grid and pixels drawn from a seed."""
        draw = torch.Generator().manual_seed(self.visual)
        rows, columns = sides(self.visual)
        words = torch.randint(_FIRST_WORD, shape.vocab_size, (self.tokens,), generator=draw)
        words[self.before : self.before + self.visual] = _IMAGE
        words[self.before - 1] = _VISION_START
        words[self.before + self.visual] = _VISION_END
        ids = words[None]
        patch = 3 * 2 * 14 * 14
        return {
            "input_ids": ids.to(device),
            "attention_mask": torch.ones_like(ids).to(device),
            "mm_token_type_ids": (ids == _IMAGE).int().to(device),
            "pixel_values": torch.randn(4 * self.visual, patch, generator=draw).to(device, dtype),
            "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * columns]], device=device),
        }


def sides(visual: int) -> tuple[int, int]:
    """Return the rows and columns of visual tokens of the image nearest to a square."""
    rows = next(n for n in range(int(visual**0.5), 0, -1) if visual % n == 0)
    return rows, visual // rows


def thresholds_for(entropies: Mapping[int, Tensor], share: float) -> dict[int, float]:
    """Return, for each layer, an entropy that about ``share`` of the candidates (n,) lie below.

    It lies in the middle of the widest gap that is at most n/32 candidates off, so that rounding
    moves none of them to the other side: random models' entropies hardly differ.
    """
    found = {}
    for layer, values in entropies.items():
        ordered = torch.cat([values.double().sort().values, values.new_tensor([1e3]).double()])
        count, off = round(share * len(values)), len(values) // 32
        low, high = max(count - off, 1), min(count + off, len(values))
        widest = low - 1 + int(ordered[low - 1 : high + 1].diff().argmax())
        found[layer] = float(ordered[widest : widest + 2].mean())
    return found
