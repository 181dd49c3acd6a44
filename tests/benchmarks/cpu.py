"""Replay on the CPU against the release's order of work: operations, seconds and peak memory.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.cpu [--tokens 64 --tokens 256 …] [--output FILE]

Two random float32 models of hidden size 512, 12 layers, a vocabulary of 32,768; one image of N
visual tokens, 7 layers matched, the share ρ of their activations. Both find x and run the answer's
prefill, in turn, in the same process. What 25 steps take is what a run takes beside its steps plus
25 times the median step: all steps do the same work, and so many of the release's would last hours.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from replay_core import ReplayConfig, Steered
from replay_core.memory import descend_in_memory
from replay_core.pair.pair import frozen
from replay_core.problem import ReplayProblem
from tests.benchmarks.closed_form import Attention, Costs, TopK, Work, least_work, release_order
from tests.benchmarks.counting import Cost, counter, entries
from tests.benchmarks.release_order import ReleaseOrder
from tests.benchmarks.shapes import SMALL, Prompt, Shape, random_pair, thresholds_for
from tests.benchmarks.timing import RESULTS, allocated_peak, where, write

LAYERS, STEPS = 7, 25
BEFORE, BEHIND = 32, 24
# How many steps are run to tell what 25 take.
OUR_STEPS, THEIR_STEPS = 3, 1
FUSED = Attention(1.0, 2.5)
TINY = Shape(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=9,
    num_attention_heads=4,
    vocab_size=2048,
    vision_hidden_size=64,
    vision_intermediate_size=96,
    vision_heads=1,
)


def main(
    tokens: Annotated[list[int] | None, typer.Option(help="visual tokens of the image")] = None,
    shares: Annotated[list[float] | None, typer.Option("--share", help="ρ")] = None,
    output: Annotated[Path, typer.Option(help="where the CSV goes")] = RESULTS / "cpu.csv",
    rounds: Annotated[int, typer.Option(min=1, help="timed runs of each, in turn")] = 3,
    tiny: Annotated[bool, typer.Option(help="a tiny shape, to try the script")] = False,
) -> None:
    """Measure, print and write one row for each number of visual tokens and each ρ."""
    torch.set_num_threads(1)
    shape, rows, place = TINY if tiny else SMALL, [], where("cpu", torch.float32)
    for visual in tokens or [64, 256, 576, 1024]:
        for share in shares or [0.5, 1.0]:
            rows.append({**place, **Case(shape, visual, share).measured(rounds)})
            print(rows[-1], flush=True)
            write(output, rows)


class Case:
    """One number of visual tokens and one ρ: ours, by ``top_k``, and the release's order."""

    def __init__(self, shape: Shape, visual: int, share: float, attention: str = "sdpa") -> None:
        self.pair = random_pair(shape, attention=attention)
        self.prompt = Prompt(BEFORE, visual, BEHIND)
        self.inputs = self.prompt.inputs(shape)
        self.costs = Costs(shape, FUSED)
        config = ReplayConfig(layers=LAYERS, threshold=1)
        entropies = Steered(self.pair, config).targets(self.inputs).entropies
        self.thresholds = thresholds_for(entropies, share)
        below = [(entropies[layer] <= most).double() for layer, most in self.thresholds.items()]
        self.masked = float(torch.cat(below).mean())

    def ours(self, steps: int, top_k: TopK = 50) -> Callable[[], Any]:
        """Return a call that finds x and runs the answer's prefill."""
        config = ReplayConfig(layers=LAYERS, thresholds=self.thresholds, steps=steps, top_k=top_k)
        steered = Steered(self.pair, config)

        def run() -> None:
            result = steered.optimise(self.inputs)
            steered.decode(self.inputs, result, max_new_tokens=1, min_new_tokens=1)

        return run

    def loop_peak(self) -> float:
        """Return the peak of our loop alone, in MiB, above what the base's targets hold."""
        config = ReplayConfig(layers=LAYERS, thresholds=self.thresholds, steps=OUR_STEPS)
        problem = Steered(self.pair, config).problem(self.inputs)
        with frozen(self.pair.policy.model):
            return allocated_peak(lambda: descend_in_memory(problem))

    def theirs(self, steps: int) -> Callable[[], Any]:
        """Return a call that does the same in the release's order."""
        order = ReleaseOrder(
            self.pair, self.thresholds, steps=steps, step_size=ReplayConfig().step_size
        )
        return lambda: order.run(self.inputs)

    def work(self, top_k: TopK = 50, steps: int = STEPS) -> Work:
        """Return what is asked for, for the closed forms."""
        return Work(self.prompt, LAYERS, steps, self.masked, top_k)

    def measured(self, rounds: int) -> dict[str, Any]:
        """Return one row."""
        ours, theirs = self.ours(OUR_STEPS), self.theirs(THEIR_STEPS)
        flops = {
            "ours": operations(ours, OURS).of(STEPS),
            "full": operations(self.ours(1, "full"), OURS).of(STEPS),
            "release": operations(theirs, THEIRS).of(STEPS),
        }
        least = sum(least_work(self.costs, self.work()).values())
        least_full = sum(least_work(self.costs, self.work("full")).values())
        closed = sum(release_order(self.costs, self.work()).values())
        runs: list[tuple[Cost, ...]] = []
        for _ in range(rounds):
            runs.append((*timed(ours, OURS), *timed(theirs, THEIRS)))
        mine, my_own, other, their_own = (
            typical(each).of(STEPS) for each in zip(*runs, strict=True)
        )
        peak, other_peak = allocated_peak(ours), allocated_peak(theirs)
        loop_peak = self.loop_peak()
        return {
            "visual_tokens": self.prompt.visual,
            "prompt_tokens": self.prompt.tokens,
            "layers": LAYERS,
            "steps": STEPS,
            "masked": f"{self.masked:.3f}",
            "rounds": rounds,
            "ours_gflop": f"{flops['ours'] / 1e9:.2f}",
            "least_gflop": f"{least / 1e9:.2f}",
            "ours_over_least": f"{flops['ours'] / least:.4f}",
            "full_gflop": f"{flops['full'] / 1e9:.2f}",
            "least_full_gflop": f"{least_full / 1e9:.2f}",
            "full_over_least": f"{flops['full'] / least_full:.4f}",
            "release_order_gflop": f"{flops['release'] / 1e9:.2f}",
            "release_over_closed_form": f"{flops['release'] / closed:.4f}",
            "release_over_ours_flops": f"{flops['release'] / flops['ours']:.2f}",
            "ours_s": f"{mine:.2f}",
            "release_order_s": f"{other:.2f}",
            "release_over_ours_s": f"{other / mine:.2f}",
            "ours_cpu_s": f"{my_own:.2f}",
            "release_order_cpu_s": f"{their_own:.2f}",
            "release_over_ours_cpu_s": f"{their_own / my_own:.2f}",
            "peak_mb": f"{peak:.0f}",
            "release_order_peak_mb": f"{other_peak:.0f}",
            "loop_peak_mb": f"{loop_peak:.0f}",
            "peak_over_release": f"{peak / other_peak:.3f}",
            "loop_peak_over_release": f"{loop_peak / other_peak:.3f}",
        }


# What is entered once at each step and once more behind the last, and how often before the first:
# the release's order begins with the base's pass.
Entered = tuple[type, str, int]
OURS: Entered = (ReplayProblem, "losses", 0)
THEIRS: Entered = (ReleaseOrder, "_forward", 1)


def operations(call: Callable[[], Any], entered: Entered) -> Cost:
    """Return what torch's counter sees of a call."""
    with counter() as seen:
        (cost,) = costs_of(call, entered, seen.get_total_flops)
    return cost


def timed(call: Callable[[], Any], entered: Entered) -> tuple[Cost, Cost]:
    """Return a call's seconds by the clock, and of this process alone."""
    wall, own = costs_of(call, entered, time.perf_counter, time.process_time)
    return wall, own


def costs_of(call: Callable[[], Any], entered: Entered, *meters: Callable[[], float]) -> list[Cost]:
    """Return by how much each of ``meters`` rises during a call, and during each of its steps."""
    owner, name, before = entered

    def read() -> list[float]:
        return [meter() for meter in meters]

    with entries(owner, name, read) as seen:
        began = read()
        call()
        ended = read()
    costs = []
    for start, end, *marks in zip(began, ended, *seen[before:], strict=True):
        costs.append(Cost.read(end - start, [after - at for at, after in pairwise(marks)]))
    return costs


def typical(runs: Sequence[Cost]) -> Cost:
    """Return the medians of some runs."""
    return Cost(
        statistics.median(run.fixed for run in runs), statistics.median(run.step for run in runs)
    )


if __name__ == "__main__":
    typer.run(main)
