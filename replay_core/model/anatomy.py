"""The parts of a multimodal model that replay touches, found through transformers' own accessors.

Nothing is found by name pattern and no class is listed: a model qualifies when the accessors answer
and :func:`replay_core.model.doors.check_doors` finds that they answer rightly.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from replay_core.errors import UsageError


@dataclass(frozen=True)
class Anatomy:
    """The parts of a multimodal model that replay touches; see :func:`anatomy_of`."""

    model: PreTrainedModel
    decoder: nn.Module
    norm: nn.Module
    head: nn.Linear

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""
        layers = self.decoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def name(self) -> str:
        """Where the model was loaded from, else its class."""
        return getattr(self.model, "name_or_path", "") or type(self.model).__name__

    @property
    def depth(self) -> int:
        """How many decoder layers there are; a base may have been loaded without its last ones."""
        return len(self.layers)

    @property
    def dtype(self) -> torch.dtype:
        """The model's dtype."""
        return self.model.dtype

    @property
    def manner(self) -> str:
        """How the model computes: what else than its weights its numbers depend on."""
        quantisation = getattr(self.model, "quantization_method", None)
        for bits in ("8bit", "4bit"):
            if getattr(self.model, f"is_loaded_in_{bits}", False):
                quantisation = bits
        attention = getattr(self.model.config, "_attn_implementation", None)
        return manner_of(self.dtype, attention, self.model.device, quantisation)


class DeferredAnatomy(Anatomy):
    """The parts of a model that is loaded when one of them is first asked for.

    ``name``, ``depth``, ``dtype`` and ``manner`` are known before.
    """

    def __init__(
        self, load: Callable[[], Anatomy], name: str, depth: int, dtype: torch.dtype, manner: str
    ) -> None:
        vars(self).update(_load=load, _name=name, _depth=depth, _dtype=dtype, _manner=manner)

    def __getattr__(self, part: str) -> Any:
        """Load the model, and return the part that was asked for."""
        if part not in _PARTS:
            raise AttributeError(part)
        loaded = vars(self)["_load"]()
        vars(self).update({name: getattr(loaded, name) for name in _PARTS})
        return vars(self)[part]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    @property
    def loaded(self) -> bool:
        """Whether the model was asked for."""
        return _PARTS[0] in vars(self)

    @property
    def name(self) -> str:
        """Where the model is loaded from."""
        return str(self._name)

    @property
    def depth(self) -> int:
        """How many decoder layers it will have."""
        return int(self._depth)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it will have."""
        dtype: torch.dtype = self._dtype
        return dtype

    @property
    def manner(self) -> str:
        """How it will compute."""
        return str(self._manner)


_PARTS = tuple(part.name for part in fields(Anatomy))


def manner_of(
    dtype: torch.dtype, attention: str | None, device: torch.device, quantisation: object = None
) -> str:
    """Return in words how a model computes: dtype, attention, device and quantisation."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (dtype, attention, name, quantisation, torch.get_float32_matmul_precision())
    return ", ".join(str(part) for part in parts)


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Return the parts of ``model`` that replay needs.

    Raises:
        UsageError: the model has no such door, or cannot take precomputed vision outputs.
    """
    decoder = model.get_decoder()
    head = model.get_output_embeddings()
    norm = getattr(decoder, "norm", None)
    kind = type(model).__name__
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList) or norm is None:
        raise UsageError(f"{kind} is not supported: its text decoder has no 'layers' and 'norm'")
    if not isinstance(head, nn.Linear):
        raise UsageError(f"{kind} is not supported: its output embeddings are not a linear head")
    if head.weight.shape != (head.out_features, head.in_features) or head.weight.is_meta:
        raise UsageError(
            f"{kind} is not supported: the weights of its head are packed or not in memory, but "
            "the logit lens reads their rows; load it with an unquantised head on a device"
        )
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise UsageError(
            f"{kind} is not supported: its forward does not take 'mm_encoder_outputs' "
            "(transformers 5.18 or newer gives it to the models that have it)"
        )
    return Anatomy(model, decoder, norm, head)
