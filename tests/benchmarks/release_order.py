"""Replay in the order of work of the paper's release, written plainly: what it costs, not how well.

Each step runs the vision tower, all layers and the last head, and reads both models over the whole
vocabulary, the base's stored activations again each time. One prompt, batch 1; weights are frozen.
The numbers are those of ``boundary="reference"``, so that x can be compared with ours.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from replay_core.pair.pair import Pair, frozen


class ReleaseOrder:
    """The loop over x for the first ``layers`` layers, with fixed entropy ``thresholds``."""

    def __init__(
        self, pair: Pair, thresholds: Mapping[int, float], *, steps: int, step_size: float
    ) -> None:
        self.pair, self.thresholds = pair, dict(thresholds)
        self.steps, self.step_size = steps, step_size

    def run(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return x (visual tokens, hidden) after the loop, and the answer's first logits."""
        policy, base = self.pair.policy, self.pair.base
        visual = torch.nonzero(inputs["input_ids"][0] == policy.model.config.image_token_id)[:, 0]
        with frozen(policy.model, base.model):
            theirs = self._base(inputs, visual)
            x = torch.zeros(
                len(visual), policy.head.in_features, device=visual.device, dtype=policy.model.dtype
            )
            for _ in range(self.steps):
                x.requires_grad_()
                ours, _ = self._forward(policy, inputs, x, visual)
                (gradient,) = torch.autograd.grad(self._loss(ours, theirs, visual), x)
                del ours
                x = (x - self.step_size * gradient).detach()
            with torch.no_grad():
                # The loss is read once more on the way to the answer.
                ours, logits = self._forward(policy, inputs, x, visual, logits_to_keep=1)
                self._loss(ours, theirs, visual)
        return x, logits

    @torch.no_grad()
    def _base(
        self, inputs: Mapping[str, Tensor], visual: Tensor
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Return layer → the base's masked activations, and the mask over the visual tokens."""
        seen, _ = self._forward(self.pair.base, inputs, None, visual)
        theirs = {}
        for layer, threshold in self.thresholds.items():
            mask = (self._entropy(self.pair.base, seen[layer + 1]) <= threshold)[visual]
            theirs[layer] = (seen[layer + 1][visual][mask], mask)
        return theirs

    def _forward(
        self,
        anatomy: Any,
        inputs: Mapping[str, Tensor],
        x: Tensor | None,
        visual: Tensor,
        **more: Any,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the inputs of all layers and the last one's output, (tokens, hidden) each, and
        the logits of a whole forward pass."""
        with added(anatomy.decoder, x, visual), inputs_of(anatomy.layers) as seen:
            output = anatomy.model(**inputs, use_cache=False, **more)
        return seen, output.logits

    def _loss(
        self, ours: list[Tensor], theirs: Mapping[int, tuple[Tensor, Tensor]], visual: Tensor
    ) -> Tensor:
        total = torch.zeros((), device=visual.device)
        for layer, (hidden, mask) in theirs.items():
            with torch.no_grad():
                logits = self._logits(self.pair.base, hidden)
                ids = logits.topk(50, dim=-1).indices
                target = logits.gather(-1, ids).log_softmax(-1)
                del logits
            read = self._logits(self.pair.policy, ours[layer][visual][mask]).gather(-1, ids)
            each = functional.kl_div(
                read.log_softmax(-1), target, reduction="none", log_target=True
            )
            total = total + each.sum(-1).mean()
        return total / len(visual)

    @staticmethod
    def _logits(anatomy: Any, hidden: Tensor) -> Tensor:
        logits: Tensor = anatomy.head(anatomy.norm(hidden))
        return logits

    def _entropy(self, anatomy: Any, hidden: Tensor) -> Tensor:
        log_probs = self._logits(anatomy, hidden).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)


@contextmanager
def added(decoder: Any, x: Tensor | None, visual: Tensor) -> Iterator[None]:
    """Add x to the decoder's input at the visual tokens inside the block."""

    def add(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs["inputs_embeds"].clone()
        embeds[0, visual] = embeds[0, visual] + x
        return args, {**kwargs, "inputs_embeds": embeds}

    handle = None if x is None else decoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def inputs_of(layers: Any) -> Iterator[list[Tensor]]:
    """Yield a list that fills with every layer's input and the last one's output."""
    seen: list[Tensor] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0])

    def behind(module: Any, args: Any, output: Any) -> None:
        seen.append((output if isinstance(output, Tensor) else output[0])[0])

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles.append(layers[-1].register_forward_hook(behind))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
