"""Run a text decoder on the tokens and through the layers that are needed, and read activations."""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from replay_core.errors import UsageError
from replay_core.model.anatomy import Anatomy
from replay_core.model.checkpointing import SavedBytes, checkpointed
from replay_core.model.hooks import Reached, Where, capture, entering
from replay_core.model.prefix import fresh
from replay_core.model.vision import Inputs, VisualFeatures, without_pixels

# What transformers calls the keys and values that a decoder is given: since 5.24, and before.
CACHES = ("cache", "past_key_values")

# Which axis of the decoder's arguments runs along the prompt.
_SEQUENCE_AXIS = {"attention_mask": 1, "position_ids": -1, "visual_pos_masks": 1}
# Features that a decoder adds behind its first layers: a list of (visual tokens, hidden).
_DEEPSTACK = "deepstack_visual_embeds"


@dataclass(frozen=True)
class DecoderCall:
    """One call of a model's text decoder, with the arguments that the model itself would pass.

    ``embeds`` is (batch, tokens, hidden). A call may be a window of the prompt: ``start`` is its
    first column, and ``prefix`` holds the keys and values of the tokens before it.
    """

    anatomy: Anatomy
    embeds: Tensor
    arguments: dict[str, Any]
    start: int = 0
    prefix: DynamicCache | None = None

    def window(self, start: int, stop: int, layers: int) -> "DecoderCall":
        """Return the call for the tokens ``start`` to ``stop`` only.

        What stands before ``start`` goes, once, through the first ``layers`` layers, which are all
        that will run, and is kept as keys and values; what stands at or behind ``stop`` is dropped,
        which changes nothing in front of it, since attention is causal. A call is not cut where
        the model made the mask itself, which may let image tokens see each other (Gemma 3), or
        passes tensors of which nothing is known here.
        """
        if not self._can_be_cut:
            return self
        if start > 0 and layers > 0:
            head = self._cut(0, 0, start)
            prefix = DynamicCache(config=self.anatomy.model.config)
            with torch.no_grad(), capture(self.anatomy.layers, [layers - 1], where="after"):
                head._forward(head.embeds, prefix)
            return replace(self._cut(0, start, stop), start=start, prefix=prefix)
        return replace(self._cut(start, start, stop), start=start)

    @property
    def _can_be_cut(self) -> bool:
        mask = self.arguments.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            return False
        known = (*_SEQUENCE_AXIS, _DEEPSTACK)
        return not any(
            isinstance(value, Tensor | Mapping | list | tuple)
            for name, value in self.arguments.items()
            if name not in known
        )

    def _cut(self, seen: int, start: int, stop: int) -> "DecoderCall":
        """Return the columns ``start`` to ``stop``, attending to those from ``seen`` on."""
        arguments = dict(self.arguments)
        for name, axis in _SEQUENCE_AXIS.items():
            if isinstance(value := arguments.get(name), Tensor):
                arguments[name] = value.narrow(axis, start, stop - start)
        if (mask := self.arguments.get("attention_mask")) is not None:
            arguments["attention_mask"] = mask[:, seen:stop]
        if (stack := self.arguments.get(_DEEPSTACK)) is not None:
            visual = self.arguments["visual_pos_masks"]
            columns = torch.arange(visual.shape[1], device=visual.device).expand_as(visual)[visual]
            inside = (columns >= start) & (columns < stop)
            arguments[_DEEPSTACK] = [features[inside.to(features.device)] for features in stack]
        return replace(self, embeds=self.embeds[:, start:stop], arguments=arguments)

    def activations(
        self,
        layers: Sequence[int],
        *,
        where: Where,
        embeds: Tensor | None = None,
        recompute: bool = False,
    ) -> dict[int, Tensor]:
        """Return layer → (batch, tokens, hidden), running no layer that is not needed.

        ``embeds`` replaces the input embeddings. With ``recompute`` the layers keep their inputs
        only, and run once more in the backward pass.
        """
        prefix = None if self.prefix is None else fresh(self.prefix)
        running = list(self.anatomy.layers[: max(layers) + 1]) if recompute else []
        with (
            checkpointed(running),
            capture(self.anatomy.layers, layers, where=where) as seen,
        ):
            self._forward(self.embeds if embeds is None else embeds, prefix)
        return seen

    def saved_bytes(self) -> int:
        """Return the bytes that one decoder layer keeps for its backward pass, by running one."""
        embeds = self.embeds.detach().requires_grad_()
        with torch.enable_grad(), SavedBytes(self.anatomy.model.parameters()) as saved:
            self.activations([0], where="after", embeds=embeds)
        return saved.total

    def _forward(self, embeds: Tensor, cache: DynamicCache | None) -> None:
        decoder = self.anatomy.decoder
        # transformers 5.24 renamed the argument, and ignores the old name beside the new one.
        taken = inspect.signature(decoder.forward).parameters
        name = next(name for name in CACHES if name in taken)
        kept: dict[str, Any] = {name: cache, "use_cache": cache is not None}
        decoder(inputs_embeds=embeds, **self.arguments, **kept)


def decoder_call(anatomy: Anatomy, inputs: Inputs, features: VisualFeatures | None) -> DecoderCall:
    """Return the decoder call that the model's own forward makes for ``inputs``.

    Positions, masks and whatever else the family passes are the model's own work; no decoder layer
    is run.

    Raises:
        UsageError: the model changes the visual features on their way to the decoder, so that x
            would not arrive there as it is.
    """
    caught: dict[str, Any] = {}

    def catch(arguments: dict[str, Any]) -> None:
        caught.update(arguments)
        raise Reached

    text = without_pixels(anatomy.model, inputs)
    if features is not None:
        text["mm_encoder_outputs"] = features.with_features(features.flat)  # type: ignore[assignment]
    with torch.no_grad(), contextlib.suppress(Reached), entering(anatomy.decoder, catch):
        anatomy.model(**text, use_cache=False)
    embeds = caught.pop("inputs_embeds")
    for name in ("input_ids", "use_cache", *CACHES):
        caught.pop(name, None)
    if features is not None:
        arrived = embeds[features.positions.to(embeds.device)]
        sent = features.flat.to(arrived)
        if not torch.allclose(arrived, sent, rtol=0, atol=0, equal_nan=True):
            raise UsageError(
                f"{anatomy.name} is not supported: its visual features do not reach the text "
                "decoder as its encoder returns them"
            )
    return DecoderCall(anatomy, embeds, caught)
