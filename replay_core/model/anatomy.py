"""The parts of a multimodal model that replay touches, found through transformers' own accessors.

Nothing is found by name pattern and no class is listed: a model qualifies when the accessors answer
and :func:`replay_core.model.doors.check_doors` finds that they answer rightly.
"""

import inspect
from dataclasses import dataclass

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
