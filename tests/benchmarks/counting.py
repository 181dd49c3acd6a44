"""Matmul operations as torch's counter sees them, and what a single step of a loop takes of them.

A step does the same work whatever its number, so that a run of few steps tells what one of many
takes: what it takes with none, and what each step adds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

Read = TypeVar("Read")


def counter() -> FlopCounterMode:
    """Return a counter that also sees the fused attention of the CPU, which torch's own does not.

    It is counted as torch counts the other fused kernels: the whole square of queries and keys, and
    in the backward pass the scores once more, 2.5 times the forward.
    """
    aten = torch.ops.aten
    fused = aten._scaled_dot_product_flash_attention_for_cpu
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward

    def forward_of(query: Any, key: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
        return _attention(query, key)

    def backward_of(
        gradient: Any, query: Any, key: Any, *rest: Any, out_shape: Any = None, **more: Any
    ) -> int:
        return _attention(query, key) * 5 // 2

    return FlopCounterMode(display=False, custom_mapping={fused: forward_of, backward: backward_of})


def _attention(query: Any, key: Any) -> int:
    """Return the operations of scores and sums; both shapes are (batch, heads, tokens, width)."""
    batch, heads, tokens, width = query
    return int(4 * batch * heads * tokens * key[2] * width)


def counted(call: Callable[[], Any]) -> int:
    """Return the operations of a call."""
    with counter() as seen:
        call()
    return int(seen.get_total_flops())


@contextmanager
def entries(owner: type, name: str, read: Callable[[], Read]) -> Iterator[list[Read]]:
    """Yield a list that fills with what ``read`` gives whenever ``owner.name`` is entered."""
    method, seen = getattr(owner, name), list[Read]()

    @wraps(method)
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(read())
        return method(*args, **kwargs)

    setattr(owner, name, noted)
    try:
        yield seen
    finally:
        setattr(owner, name, method)


@dataclass(frozen=True)
class Cost:
    """What a run takes with no step, and what each step adds."""

    fixed: float
    step: float

    def of(self, steps: int) -> float:
        """Return what a run of ``steps`` takes."""
        return self.fixed + steps * self.step

    @classmethod
    def read(cls, total: float, steps: list[float]) -> "Cost":
        """Return the cost of a run that took ``total``, each of ``steps`` included."""
        return cls(total - sum(steps), sum(steps) / len(steps))
