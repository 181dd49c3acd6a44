"""What the loop will keep for its backward pass, and whether that fits."""

from collections import Counter
from dataclasses import dataclass, replace

import psutil  # type: ignore[import-untyped]
import torch

from replay_core.descent import Descent, descend
from replay_core.faults import out_of_memory
from replay_core.model.anatomy import Anatomy
from replay_core.problem import ReplayProblem

# What is free is not all to be had: allocators round up and leave gaps.
_USABLE = 0.9


@dataclass(frozen=True)
class MemoryPlan:
    """Whether decoder layers run again in the backward pass, and what is kept where they do not.

    ``needed_mb`` and ``free_mb`` are MiB, of the device that has least to spare; None where the
    choice was the user's.
    """

    recompute: bool
    needed_mb: float | None = None
    free_mb: float | None = None


def descend_in_memory(problem: ReplayProblem) -> tuple[Descent, MemoryPlan]:
    """Return the end of the loop, and how it ran: layers run again for the gradient where what they
    keep would not fit, or did not.

    Raises:
        torch.OutOfMemoryError, MemoryError or RuntimeError: it does not fit as
            ``config.checkpointing`` asks for.
    """
    plan = memory_plan(problem)
    if not plan.recompute:
        try:
            return descend(problem), plan
        except Exception as error:
            if problem.config.checkpointing == "off" or not out_of_memory(error):
                raise
        torch.cuda.empty_cache()
    return descend(replace(problem, recompute=True)), replace(plan, recompute=True)


def memory_plan(problem: ReplayProblem) -> MemoryPlan:
    """Return how the loop of ``problem`` will run: as ``config.checkpointing`` says, and with
    ``auto`` as what one layer keeps, measured, says of all of them."""
    asked = problem.config.checkpointing
    if asked != "auto":
        return MemoryPlan(asked == "on")
    if problem.depth == 0:
        return MemoryPlan(False)
    needed = needed_bytes(problem)
    spare = {device: free_bytes(device) for device in needed}
    tightest = min(needed, key=lambda device: spare[device] - needed[device])
    return MemoryPlan(
        needed[tightest] > _USABLE * spare[tightest],
        needed[tightest] / 2**20,
        spare[tightest] / 2**20,
    )


def needed_bytes(problem: ReplayProblem) -> dict[torch.device, int]:
    """Return the bytes that one step keeps for its backward pass, by device.

    One layer is run and its lens read; the others are taken to keep as much.
    """
    anatomy, depth = problem.call.anatomy, problem.depth
    layer, lens = problem.call.saved_bytes(), problem.lens_bytes()
    needed = Counter[torch.device]()
    for index in range(depth):
        needed[device_of(anatomy, index)] += layer
    needed[problem.features.flat.device] += lens
    return dict(needed)


def device_of(anatomy: Anatomy, layer: int) -> torch.device:
    """Return where a decoder layer computes."""
    return next(anatomy.layers[layer].parameters()).device


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on ``device``."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
