"""Run a text decoder on the tokens and through the layers that are needed, and read activations."""

import contextlib
import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from replay_core.anatomy import Anatomy, Inputs, VisualFeatures, without_pixels
from replay_core.capture import Reached, Where, capture

# Which axis of the decoder's arguments runs along the prompt.
_SEQUENCE_AXIS = {"inputs_embeds": 1, "position_ids": -1, "visual_pos_masks": 1}
# What a decoder calls its keys and values, from transformers 5.24 on and before.
_CACHE_ARGUMENTS = ("cache", "past_key_values")


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
        which changes nothing in front of it, since attention is causal. A decoder whose mask is
        not the plain (batch, tokens) one is not cut.
        """
        mask = self.arguments.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            return self
        if start > 0 and layers > 0:
            head = self._cut(0, 0, start)
            prefix = DynamicCache(config=self.anatomy.model.config)
            with torch.no_grad(), capture(self.anatomy.layers, [layers - 1], where="after"):
                head._forward(head.embeds, prefix)
            return replace(self._cut(0, start, stop), start=start, prefix=prefix)
        return replace(self._cut(start, start, stop), start=start)

    def _cut(self, seen: int, start: int, stop: int) -> "DecoderCall":
        """Return the columns ``start`` to ``stop``, attending to those from ``seen`` on."""
        arguments = dict(self.arguments)
        for name, axis in _SEQUENCE_AXIS.items():
            if isinstance(value := arguments.get(name), Tensor):
                arguments[name] = value.narrow(axis, start, stop - start)
        if (mask := arguments.get("attention_mask")) is not None:
            arguments["attention_mask"] = mask[:, seen:stop]
        return replace(self, embeds=self.embeds[:, start:stop], arguments=arguments)

    def activations(
        self, layers: Sequence[int], *, where: Where, embeds: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Return layer → (batch, tokens, hidden), running no layer that is not needed.

        ``embeds`` replaces the input embeddings.
        """
        cache = None if self.prefix is None else _fresh(self.prefix)
        with capture(self.anatomy.layers, layers, where=where) as seen:
            self._forward(self.embeds if embeds is None else embeds, cache)
        return seen

    def _forward(self, embeds: Tensor, cache: DynamicCache | None) -> None:
        decoder = self.anatomy.decoder
        given = {} if cache is None else {_cache_argument(decoder): cache}
        decoder(inputs_embeds=embeds, **self.arguments, **given, use_cache=cache is not None)


def decoder_call(anatomy: Anatomy, inputs: Inputs, features: VisualFeatures | None) -> DecoderCall:
    """Return the decoder call that the model's own forward makes for ``inputs``.

    Positions, masks and whatever else the family passes are the model's own work; no decoder layer
    is run.
    """
    caught: dict[str, Any] = {}

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        caught.update(kwargs)
        raise Reached

    text = without_pixels(anatomy.model, inputs)
    if features is not None:
        text["mm_encoder_outputs"] = features.with_features(features.flat)  # type: ignore[assignment]
    handle = anatomy.decoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad(), contextlib.suppress(Reached):
            anatomy.model(**text, use_cache=False)
    finally:
        handle.remove()
    embeds = caught.pop("inputs_embeds")
    for name in ("input_ids", *_CACHE_ARGUMENTS, "use_cache"):
        caught.pop(name, None)
    return DecoderCall(anatomy, embeds, caught)


def _cache_argument(decoder: nn.Module) -> str:
    taken = inspect.signature(decoder.forward).parameters
    return next(name for name in _CACHE_ARGUMENTS if name in taken)


def _fresh(prefix: DynamicCache) -> DynamicCache:
    """Return a cache that grows without touching ``prefix``; the tensors are shared."""
    cache = copy.copy(prefix)
    cache.layers = [copy.copy(layer) for layer in prefix.layers]
    return cache
