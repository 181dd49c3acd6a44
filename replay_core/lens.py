"""The logit lens: what a model's own final norm and head read from an activation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from replay_core.config import ReplayConfig
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

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (rows, vocabulary) of ``hidden`` (rows, hidden), on its device."""
        head = self.anatomy.head
        bias = None if head.bias is None else head.bias.to(self.dtype)
        normed = self.normed(hidden).to(head.weight.device)
        return functional.linear(normed, head.weight.to(self.dtype), bias).to(hidden.device)

    def logits_at(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Return the logits (rows, k) of the vocabulary entries ``ids`` (rows, k) only."""
        head = self.anatomy.head
        ids = ids.to(head.weight.device)
        rows = head.weight[ids].to(self.dtype)
        logits = torch.einsum("rh,rkh->rk", self.normed(hidden).to(rows.device), rows)
        if head.bias is not None:
            logits = logits + head.bias[ids].to(self.dtype)
        return logits.to(hidden.device)

    def log_probs(self, hidden: Tensor, ids: Tensor | None) -> Tensor:
        """Return log-probabilities normalised over ``ids`` (rows, k), the vocabulary where None."""
        logits = self.logits(hidden) if ids is None else self.logits_at(hidden, ids)
        return torch.log_softmax(logits, -1)

    def chunks(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, logits of these rows), so that a prompt's logits never stand at once."""
        size = max(1, _VALUES_AT_ONCE // self.anatomy.head.out_features)
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
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
