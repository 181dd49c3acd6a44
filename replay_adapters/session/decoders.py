"""Who writes the answers of a run, and whether vLLM's engine has room beside the loop."""

from dataclasses import dataclass
from typing import Any

import psutil
import torch
from loguru import logger
from transformers import AutoModelForImageTextToText, PretrainedConfig

from replay_adapters.settings.options import Settings
from replay_adapters.settings.processors import processor_of
from replay_core import Pair, UsageError
from replay_core.decoding.engine import engine_for
from replay_core.decoding.vllm import VllmDecoder
from replay_core.pair.loading import load_config

_GIB = 2**30


def decoder_of(settings: Settings, pair: Pair) -> VllmDecoder | None:
    """Return what writes a run's answers, started; None where transformers does.

    Arms that answer with one checkpoint in one process share its engine.

    Raises:
        UsageError: vLLM does not start.
    """
    if settings.engine is None:
        return None
    files = settings.pair
    answering = files.base if settings.config.method == "base" else files.policy
    model = pair.base.model if settings.config.method == "base" else pair.policy.model
    dtype = str(model.dtype).removeprefix("torch.")
    logger.info(f"replay: starting vLLM with {answering} in {dtype}: {settings.engine}")
    return VllmDecoder(engine_for(answering, processor_of(settings).source, dtype, settings.engine))


@dataclass(frozen=True)
class Room:
    """What is needed of the memory that the loop and the first of vLLM's devices share, in bytes.

    ``engine`` is what vLLM takes in all, ``weights`` of it are the model's; ``policy`` and ``base``
    are those of the loop, as far as they lie there. What the loop's gradient keeps comes on top,
    and depends on the pictures.
    """

    total: int
    engine: int
    weights: int
    policy: int
    base: int

    @property
    def spare(self) -> int:
        """What is left for the loop's gradient, and whatever else is there."""
        return self.total - self.engine - self.policy - self.base

    def told(self) -> str:
        """Return the estimate as one line."""
        parts = {
            "vLLM": self.engine,
            "policy": self.policy,
            "base": self.base,
            "left for the loop": self.spare,
        }
        sizes = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts.items())
        return f"of {self.total / _GIB:.1f} GiB: {sizes} GiB"

    def check(self) -> None:
        """Raise UsageError where it does not fit."""
        share = f"vllm_gpu_memory_utilization={self.engine / self.total:.2f}"
        if self.engine <= self.weights:
            raise UsageError(
                f"{share} leaves vLLM {self.engine / _GIB:.1f} GiB, and the model's weights alone "
                f"are {self.weights / _GIB:.1f} GiB; give it more, or "
                "vllm_tensor_parallel_size=2 where there are two GPUs"
            )
        if self.spare <= 0:
            raise UsageError(
                f"{share} leaves no room for the loop ({self.told()}); give vLLM less, the loop "
                "another GPU (device=cuda:1), or the base (replay_base_device=cpu)"
            )


def check_room(settings: Settings, config: PretrainedConfig, device_map: Any) -> None:
    """Tell what memory a run with vLLM needs, from the checkpoints' configs alone.

    ``config`` is the answering checkpoint's, ``device_map`` where the loop's models will be.

    Raises:
        UsageError: it does not fit.
    """
    if settings.engine is not None:
        room = room_for(settings, config, device_map)
        logger.info(f"replay: memory {room.told()}")
        room.check()


def room_for(settings: Settings, config: PretrainedConfig, device_map: Any) -> Room:
    """Return what :func:`check_room` tells."""
    assert settings.engine is not None  # else nothing has to stand beside the loop
    asked = settings.dtype
    dtype = getattr(torch, asked) if asked not in (None, "auto") else config.dtype
    each = (dtype or torch.float32).itemsize
    whole, tower, _ = _parameters(config, None)
    home = torch.device("cuda" if device_map == "auto" else device_map or "cpu")
    parallel = settings.engine.tensor_parallel_size
    beside = home.type != "cuda" or (home.index or 0) < parallel
    elsewhere = settings.base_device is not None and torch.device(settings.base_device) != home
    base = 0
    if settings.config.asks_base and not elsewhere:
        layers = settings.config.layer_indices(config.get_text_config().num_hidden_layers)
        _, _, held = _parameters(load_config(settings.pair.base), max(layers) + 1)
        base = held * each
    if home.type == "cuda":
        total = torch.cuda.get_device_properties(home).total_memory
    else:
        total = psutil.virtual_memory().total
    return Room(
        total=total,
        engine=int(settings.engine.gpu_memory_utilization * total) if beside else 0,
        weights=(whole - tower) * each // parallel if beside else -1,
        policy=whole * each,
        base=base,
    )


def _parameters(config: PretrainedConfig, depth: int | None) -> tuple[int, int, int]:
    """Return how many parameters a model has, its vision tower, and it with ``depth`` layers."""
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    whole = sum(parameter.numel() for parameter in model.parameters())
    tower = sum(parameter.numel() for parameter in model.base_model.visual.parameters())
    layers = model.get_decoder().layers
    dropped = [] if depth is None else layers[depth:]
    return whole, tower, whole - sum(p.numel() for layer in dropped for p in layer.parameters())
