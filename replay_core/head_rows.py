"""The rows of an output head that the lens reads: the whole vocabulary, or a few ids of each row.

Each kind gives the logits of normed activations and, for the gradient, the weighted sum of the
rows that made them.
"""

import functools
import importlib
import logging
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

_log = logging.getLogger(__name__)


class HeadRows(Protocol):
    """What the lens needs of the head, for a slice of normed activations (rows, hidden)."""

    def logits(self, normed: Tensor) -> Tensor:
        """Return the logits (rows, k) or (rows, vocabulary), in the dtype of ``normed``."""

    def pulled(self, by_logit: Tensor) -> Tensor:
        """Return the gradient (rows, hidden) for that of the logits, ``by_logit``."""


def head_rows(head: nn.Linear, ids: Tensor | None, dtype: torch.dtype) -> HeadRows:
    """Return the head's rows for ``ids`` (rows, k), or all where None, for reading in ``dtype``."""
    if ids is None:
        return Whole(head, dtype)
    ids = ids.to(head.weight.device)
    kernels = fused_kernels(head.weight.device) if dtype == torch.float32 else None
    if kernels is not None and ids.shape[1] <= kernels.MOST_IDS and head.weight.stride(1) == 1:
        return Fused(head, ids, kernels)
    return Gathered(head, ids, dtype)


class Whole:
    """All rows."""

    def __init__(self, head: nn.Linear, dtype: torch.dtype) -> None:
        self._weight = head.weight.to(dtype)
        self._bias = None if head.bias is None else head.bias.to(dtype)

    def logits(self, normed: Tensor) -> Tensor:
        """Return the logits (rows, vocabulary)."""
        return functional.linear(normed, self._weight, self._bias)

    def pulled(self, by_logit: Tensor) -> Tensor:
        """Return the gradient (rows, hidden)."""
        return by_logit @ self._weight


class Gathered:
    """A few rows for each activation, copied together (rows, k, hidden)."""

    def __init__(self, head: nn.Linear, ids: Tensor, dtype: torch.dtype) -> None:
        self._weight = head.weight[ids].to(dtype)
        self._bias = None if head.bias is None else head.bias[ids].to(dtype)

    def logits(self, normed: Tensor) -> Tensor:
        """Return the logits (rows, k)."""
        logits = torch.einsum("rh,rkh->rk", normed, self._weight)
        return logits if self._bias is None else logits + self._bias

    def pulled(self, by_logit: Tensor) -> Tensor:
        """Return the gradient (rows, hidden)."""
        return torch.einsum("rk,rkh->rh", by_logit, self._weight)


class Fused:
    """A few rows for each activation, read where they stand (CUDA, float32)."""

    def __init__(self, head: nn.Linear, ids: Tensor, kernels: ModuleType) -> None:
        self._head, self._ids, self._kernels = head, ids, kernels

    def logits(self, normed: Tensor) -> Tensor:
        """Return the logits (rows, k)."""
        logits: Tensor = self._kernels.read(normed, self._head.weight, self._ids)
        bias = self._head.bias
        return logits if bias is None else logits + bias[self._ids].to(logits)

    def pulled(self, by_logit: Tensor) -> Tensor:
        """Return the gradient (rows, hidden)."""
        pulled: Tensor = self._kernels.pull(by_logit, self._head.weight, self._ids)
        return pulled


@functools.cache
def fused_kernels(device: torch.device) -> ModuleType | None:
    """Return the kernels for ``device`` after comparing them with the plain way, else None.

    Triton comes with torch for CUDA and builds with a C compiler, which a machine may lack.
    """
    if device.type != "cuda":
        return None
    try:
        kernels = importlib.import_module("replay_core.kernels")
        if kernels.agrees(device):
            return kernels
        reason = "they gave other numbers"
    except Exception as error:  # whatever stops a compiler on a machine that is not ours
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    _log.info("the lens reads the head without its fused kernels on %s (%s)", device, reason)
    return None
