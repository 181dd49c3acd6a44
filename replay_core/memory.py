"""How the loop runs: whether what its gradient needs fits, and whether steps are recorded."""

from collections import Counter
from dataclasses import dataclass, replace

import psutil  # type: ignore[import-untyped]
import torch

from replay_core.descent import Descent, descend
from replay_core.faults import out_of_memory
from replay_core.model.anatomy import Anatomy
from replay_core.optimizers import state_bytes
from replay_core.problem import ReplayProblem

# What is free is not all to be had: allocators round up and leave gaps.
_USABLE = 0.9
# From here on a step keeps a GPU busier than its launches keep the host.
_RECORDED_TOKENS = 4096


@dataclass(frozen=True)
class MemoryPlan:
    """Whether decoder layers run again in the backward pass, and whether steps are replayed.

    ``needed_mb`` is what a step keeps for its backward pass where nothing runs again, ``free_mb``
    what could be had, both in MiB, of the device that has least to spare; None where nothing is
    optimised.
    """

    recompute: bool
    graph: bool = False
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
            return descend(replace(problem, graph=plan.graph)), plan
        except Exception as error:
            if problem.config.checkpointing == "off" or not out_of_memory(error):
                raise
        torch.cuda.empty_cache()
    plan = replace(plan, recompute=True, graph=False)
    return descend(replace(problem, recompute=True)), plan


def memory_plan(problem: ReplayProblem) -> MemoryPlan:
    """Return how the loop of ``problem`` will run, from what one layer is measured to keep.

    A recorded step keeps its memory beside that of the step that ran before it.
    """
    if problem.depth == 0:
        return MemoryPlan(False)
    needed = needed_bytes(problem)
    spare = {device: free_bytes(device) for device in needed}
    tightest = min(needed, key=lambda device: spare[device] - needed[device])
    asked, usable = problem.config.checkpointing, _USABLE * spare[tightest]
    recompute = asked == "on" or (asked == "auto" and needed[tightest] > usable)
    fits_twice = 2 * needed[tightest] <= usable
    return MemoryPlan(
        recompute,
        fits_twice and not recompute and _worth_recording(problem),
        needed[tightest] / 2**20,
        spare[tightest] / 2**20,
    )


def _worth_recording(problem: ReplayProblem) -> bool:
    """Return whether a step is one GPU's work, and short enough to wait for its launches."""
    anatomy, embeds = problem.call.anatomy, problem.call.embeds
    parts = [anatomy.norm, anatomy.head, *anatomy.layers[: problem.depth]]
    devices = {parameter.device for part in parts for parameter in part.parameters()}
    return (
        problem.config.cuda_graphs == "auto"
        and devices == {embeds.device} == {problem.features.flat.device}
        and embeds.device.type == "cuda"
        and embeds.shape[0] * embeds.shape[1] <= _RECORDED_TOKENS
    )


def needed_bytes(problem: ReplayProblem) -> dict[torch.device, int]:
    """Return the bytes that one step keeps for its backward pass and the next step, by device.

    One layer is run and its lens read; the others are taken to keep as much.
    """
    layer = problem.call.saved_bytes()
    needed = Counter[torch.device]()
    for index in range(problem.depth):
        needed[device_of(problem.call.anatomy, index)] += layer
    flat = problem.features.flat
    needed[flat.device] += problem.lens_bytes() + state_bytes(problem.config.optimizer, flat)
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
