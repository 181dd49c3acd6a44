"""Several processes, each with a pair of its own, on GPUs or on the CPU.

Each function mends one defect of lmms-eval 0.7.3, and does nothing unless one of our models is
built.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from replay_core import UsageError


def count_processes_on_the_cpu() -> None:
    """Let accelerate see the processes that torchrun has started where there is no GPU.

    It takes each of them for the only one, unless it is told to use the CPU: totals would be those
    of one process, and all would write to one journal. To be called before it is asked. To be
    dropped when accelerate counts them itself.
    """
    if _started() > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def own_device(asked: Any) -> str:
    """Return this process's device: the one ``asked`` for, where it is the only process.

    lmms-eval hands ``--device`` to every process; its classes then take cuda:N, N the process's
    number on its machine, whatever it says.

    Raises:
        UsageError: several processes were started, and accelerate knows of one only.
    """
    state = PartialState()
    if _started() > 1 and state.num_processes == 1:
        raise UsageError(
            f"{_started()} processes were started, but accelerate counts 1; start them with "
            "torchrun -m replay_adapters.lmms_eval.launcher, or set ACCELERATE_USE_CPU=1 where "
            "there is no GPU"
        )
    return str(state.device if state.num_processes > 1 else asked or state.device)


@contextmanager
def constructors_without_cuda(kind: type) -> Iterator[None]:
    """Let a class be built in each of several processes on the CPU.

    Its constructor puts the model of any but a lone process on cuda:N, and refuses what is neither
    DDP nor FSDP. So it is told that it is alone; its evaluator gives it rank and world size all the
    same. To be dropped when the classes ask accelerate for their device.
    """
    modules = {sys.modules[base.__module__] for base in kind.__mro__}
    asking: list[Any] = [module for module in modules if hasattr(module, "Accelerator")]
    if PartialState().distributed_type is not DistributedType.MULTI_CPU:
        asking = []
    for module in asking:
        module.Accelerator = _Alone
    try:
        yield
    finally:
        for module in asking:
            module.Accelerator = Accelerator


class _Alone:
    """An accelerator that says that there is one process, and is itself in everything else."""

    num_processes = 1

    def __init__(self, *given: Any, **more: Any) -> None:
        self._accelerator = Accelerator(*given, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))
