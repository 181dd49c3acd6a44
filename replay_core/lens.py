"""The logit lens: what a model's own final norm and head read from an activation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from replay_core.config import ReplayConfig
from replay_core.divergence import kl
from replay_core.head_rows import head_rows
from replay_core.model.anatomy import Anatomy

# Rows of the whole vocabulary that are held at once: 2**27 float32 values are 0.5 GB.
_VALUES_AT_ONCE = 2**27


@dataclass(frozen=True)
class Lens:
    """Logits, in ``dtype``, that a model reads from activations: ``head(norm(h))``.

    ``dtype`` is float32 in the aligned reading, whatever the model's own dtype, and the model's
    dtype in the reference reading.
    """

    anatomy: Anatomy
    dtype: torch.dtype = torch.float32

    def normed(self, hidden: Tensor) -> Tensor:
        """Return the final norm of ``hidden`` (rows, hidden), computed in ``dtype``."""
        norm = self.anatomy.norm
        hidden = hidden.to(next(norm.parameters()).device, self.dtype)
        weights = {name: value.to(self.dtype) for name, value in norm.named_parameters()}
        read: Tensor = torch.func.functional_call(norm, weights, (hidden,))
        return read

    def logits(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the logits (rows, k) of ``hidden`` (rows, hidden) at the vocabulary entries
        ``ids`` (rows, k), or at all where None, on the device of ``hidden``."""
        head = self.anatomy.head
        normed = self.normed(hidden).to(head.weight.device)
        return head_rows(head, ids, self.dtype).logits(normed).to(hidden.device)

    def log_probs(self, hidden: Tensor, ids: Tensor | None) -> Tensor:
        """Return log-probabilities normalised over ``ids`` (rows, k), the vocabulary where None."""
        read = [
            self.logits(hidden[rows], None if ids is None else ids[rows])
            for rows in self.slices(len(hidden), ids)
        ]
        return torch.log_softmax(torch.cat(read), -1)

    def divergence(self, hidden: Tensor, log_probs: Tensor, ids: Tensor | None) -> Tensor:
        """Return ``KL(base ‖ policy)`` (rows,) in nats, of a policy's ``hidden`` (rows, hidden).

        ``log_probs`` (rows, k) are the base's, over ``ids`` (rows, k) or the vocabulary where None.
        Its gradient with respect to ``hidden`` is found on the way, in the same pass over the head.
        """
        head = self.anatomy.head
        normed = self.normed(hidden).to(head.weight.device)
        found: Tensor = _Divergence.apply(normed, log_probs.to(normed.device), ids, self)
        return found.to(hidden.device)

    def slices(self, rows: int, ids: Tensor | None) -> Iterator[slice]:
        """Yield slices of ``rows`` whose logits, over the vocabulary or ``ids`` (rows, k), may be
        held at once; of ids these are the rows of the head that are gathered for them."""
        head = self.anatomy.head
        values = head.out_features if ids is None else ids.shape[1] * head.in_features
        size = max(1, _VALUES_AT_ONCE // values)
        for start in range(0, rows, size):
            yield slice(start, min(start + size, rows))

    def chunks(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, logits of these rows), so that a prompt's logits never stand at once."""
        for rows in self.slices(len(hidden), None):
            yield rows, self.logits(hidden[rows])

    def entropies(
        self, hidden: Tensor, top_k: int | Literal["full"] = "full"
    ) -> tuple[Tensor, Tensor | None]:
        """Return the entropies (rows,) in nats and the ``top_k`` most probable ids (rows, k).

        No ids are returned where ``top_k`` is the full vocabulary.
        """
        entropies, ids = [], []
        for _, logits in self.chunks(hidden):
            entropies.append(entropy(logits))
            if top_k != "full":
                ids.append(logits.topk(min(top_k, logits.shape[-1]), dim=-1).indices)
        return torch.cat(entropies), torch.cat(ids) if ids else None


class _Divergence(torch.autograd.Function):
    """KL(base ‖ policy) whose gradient is found in the forward pass, chunk by chunk.

    Autograd would keep the logits, or the head's gathered rows, of all layers until the backward
    pass, and recomputing them there would read the head a third time. With q the policy's and p the
    base's probabilities, the gradient with respect to the logits is ``q Σp - p``.
    """

    @staticmethod
    def forward(
        ctx: Any, normed: Tensor, log_probs: Tensor, ids: Tensor | None, lens: Lens
    ) -> Tensor:
        divergences = normed.new_empty(len(normed))
        gradient = torch.empty_like(normed) if ctx.needs_input_grad[0] else None
        for rows in lens.slices(len(normed), ids):
            at = None if ids is None else ids[rows]
            weights = head_rows(lens.anatomy.head, at, lens.dtype)
            policy = torch.log_softmax(weights.logits(normed[rows]), -1)
            divergences[rows] = kl(log_probs[rows], policy)
            if gradient is not None:
                base = log_probs[rows].exp()
                by_logit = policy.exp() * base.sum(-1, keepdim=True) - base
                gradient[rows] = weights.pulled(by_logit)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return divergences

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].unsqueeze(-1), None, None, None


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats, ``-Σ p log p`` over the last axis, in [0, log(vocabulary)].

    Formed from the log-softmax, as the release forms it: rounded to half precision, other formulas
    would put other positions below a threshold.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    # An id that is ruled out adds nothing: 0 times a finite number, not times -inf.
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    return -(torch.softmax(logits, dim=-1) * finite).sum(-1)


def arithmetic(config: ReplayConfig, model_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of lens, softmax, KL and x: float32, or the model's own in `reference`."""
    return model_dtype if config.boundary == "reference" else torch.float32
