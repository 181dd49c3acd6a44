"""What went wrong in one sample: memory ran out, or something else failed."""

from dataclasses import dataclass

import torch

from replay_core.errors import UsageError
from replay_core.outcome import Outcome

# Where memory runs out, torch raises a class of its own for its own allocators on accelerators
# only.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class RunOver(UsageError):
    """No sample of this run can be answered as it was asked for, whatever the sample."""


@dataclass(frozen=True)
class Fault:
    """Why a sample was not answered as it was meant to be: the outcome, and the first line."""

    outcome: Outcome
    error: str

    @classmethod
    def of(cls, error: BaseException) -> "Fault":
        """Return what an exception is to the sample that it was raised for."""
        outcome = Outcome.OUT_OF_MEMORY if out_of_memory(error) else Outcome.FAILED
        return cls(outcome, told(error))


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that an accelerator's or the machine's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def ends_the_run(error: BaseException) -> bool:
    """Return whether no other sample can be answered after an exception, whatever it is.

    Any other error of an accelerator than a full memory leaves its context unusable.
    """
    if isinstance(error, RunOver):
        return True
    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not out_of_memory(error)


def told(error: BaseException) -> str:
    """Return an exception's kind and the first line of its text."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
