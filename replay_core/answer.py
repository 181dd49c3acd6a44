"""Optimise a batch once, however often it is answered."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from replay_core.model.anatomy import Inputs
from replay_core.record import Seconds
from replay_core.result import ReplayResult
from replay_core.steered import Steered


class Recent:
    """``steered.optimise`` that remembers the last batch, by its content.

    The same inputs and seeds give the same x, since settings and weights are those of ``steered``:
    k answers to one prompt need one descent. Only one batch is kept, so that memory is bounded:
    ask for all answers to a batch in a row.
    """

    def __init__(self, steered: Steered) -> None:
        self._steered = steered
        self._last: tuple[str, ReplayResult] | None = None

    def optimise(self, inputs: Inputs, *, seeds: Sequence[int]) -> ReplayResult:
        """Return what ``steered.optimise`` returns; seconds are 0 where it was remembered."""
        key = content_digest(inputs, seeds)
        if self._last is not None and self._last[0] == key:
            return replace(self._last[1], seconds=Seconds())
        self._last = None  # its memory, before the next descent needs it
        result = self._steered.optimise(inputs, seeds=seeds)
        self._last = (key, result)
        return result

    def forget(self) -> None:
        """Let go of what is remembered."""
        self._last = None


def content_digest(inputs: Inputs, seeds: Sequence[int]) -> str:
    """Return 64 hexadecimal digits that change with any value of the inputs, and with the seeds."""
    state = hashlib.sha256(repr(list(seeds)).encode())
    for name, value in sorted(inputs.items()):
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
