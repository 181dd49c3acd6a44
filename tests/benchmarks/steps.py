"""Count the steps to the loss that 25 plain steps reach, and judge the answers of fewer steps.

    python -m tests.benchmarks.steps [--n 300] [--device cpu] [--answers 500]

Embedded pairs at their presets, test split, prompts of the harness's own dataloader. Each optimiser
runs through the loop itself; two that are not offered stand beside: Nesterov's momentum, and
Barzilai-Borwein steps with the same way back as L-BFGS. A sample gets there when its best loss so
far is the plain loop's last, or lower. Writes ``tests/benchmarks/results/steps.csv``, and answers
against those of 25 plain steps, item by item, to ``steps_answers.csv``.
"""

import argparse
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replay_adapters.lmms_eval.bench import LmmsEvalBench
from replay_core.descent import descend
from replay_core.optimizers import LBFGS, Optimizer, Plain, Scale
from replay_core.pair.pair import frozen
from replay_core.problem import ReplayProblem
from replay_core.studies.amortise import posed
from replay_core.studies.answers import by_arm, run_arms
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.trial import judge
from tests.benchmarks.timing import RESULTS, where, write

PAIRS, TASK, STEPS = ("demo_drifted", "demo_narrow"), "replay_demo", 25
PLAIN = f"plain, {STEPS} steps"
NEVER = 10**6


class Nesterov:
    """Gradient descent with momentum 0.8, the gradient taken ahead of the last move."""

    safeguarded = False

    def __init__(self, scale: Scale) -> None:
        self._step = scale.step
        self._last: Tensor | None = None

    def step(self, x: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Return the next point to look at, ahead of where the plain step leads."""
        there = x - self._step * gradient
        last, self._last = self._last, there
        return there if last is None else there + 0.8 * (there - last)


class BarzilaiBorwein:
    """Steps of length Σ s·y / Σ y·y, gone back from where the loss exceeds the last three's."""

    safeguarded = True

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._at: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Return the last x that was stayed at, moved along its gradient."""
        dot, rows = self._scale.dot, self._scale.rows
        if self._at is None:
            self._at, self._window = (x.clone(), gradient), deque([losses.clone()], maxlen=3)
            self._length = torch.full_like(losses, self._scale.step)
        else:
            stays = losses <= torch.stack(list(self._window)).amax(0)
            s, y = x - self._at[0], gradient - self._at[1]
            length = dot(s, y) / dot(y, y)
            length = length.where(length.isfinite() & (length > 0), self._scale.step)
            self._length = torch.where(stays, length, self._length / 4)
            self._at = tuple(
                torch.where(rows(stays), new, old)
                for new, old in zip((x, gradient), self._at, strict=True)
            )
            self._window.append(torch.where(stays, losses, self._window[-1]))
        return self._at[0] - rows(self._length) * self._at[1]


RUNS: dict[str, Callable[[Scale], Optimizer]] = {
    "plain": Plain,
    "nesterov 0.8": Nesterov,
    "bb": BarzilaiBorwein,
    "lbfgs": LBFGS,
}


def main() -> None:
    """Run the benchmark and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--answers", type=int, default=500)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    steps: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    here = where(asked.device, torch.float32)  # before a table changes what is committed
    for pair in PAIRS:
        bench = LmmsEvalBench(f"pair={pair}", TASK, batch_size=50, device=asked.device)
        dtype = str(bench.pair.policy.dtype).removeprefix("torch.")
        place = {"pair": pair, "task": TASK, **here, "dtype": dtype}
        steps += [{**place, **row} for row in counted(bench, asked.n)]
        answers += [{**place, **row} for row in answered(bench, asked.answers)]
        write(RESULTS / "steps.csv", steps)
        write(RESULTS / "steps_answers.csv", answers)
    for row in (*steps, *answers):
        print(row)


def counted(bench: LmmsEvalBench, n: int) -> list[dict[str, Any]]:
    """Return each optimiser's row: its steps to where the plain ones end."""
    with frozen(bench.pair.policy.model):
        problems = posed(bench, bench.config, bench.documents(n))
        curves = {name: best_so_far(problems, made) for name, made in RUNS.items()}
    there = curves["plain"][:, -1]
    rows = []
    for name, curve in curves.items():
        reached = curve <= there[:, None]
        taken = torch.where(reached.any(1), reached.float().argmax(1), NEVER)
        rows.append(
            {
                "n": len(there),
                "step_size": bench.config.step_size,
                "optimizer": name,
                "median_steps": float(taken.float().median()),
                "share_in_8": f"{float((taken <= 8).float().mean()):.3f}",
                "share_in_25": f"{float((taken <= STEPS).float().mean()):.3f}",
                "median_left_after_8": f"{float((curve[:, 8] / curve[:, 0]).median()):.4f}",
                "median_left_after_25": f"{float((curve[:, -1] / curve[:, 0]).median()):.4f}",
            }
        )
    return rows


def best_so_far(problems: Sequence[ReplayProblem], made: Callable[[Scale], Optimizer]) -> Tensor:
    """Return each sample's lowest loss after 0 to 25 steps; of the plain loop its last, at 25."""
    losses = torch.cat([descend(problem, made).losses for problem in problems])
    best = losses.cummin(1).values
    if made is Plain:
        best[:, -1] = losses[:, -1]
    return best


def answered(bench: LmmsEvalBench, n: int) -> list[dict[str, Any]]:
    """Return each arm's row: its answers against those of 25 plain steps."""
    config = bench.config.changed(steps=STEPS)
    arms = [Arm(PLAIN, config), baseline(config)]
    arms += [Arm(f"plain, {few} steps", config.changed(steps=few)) for few in (8, 10)]
    quasi = config.changed(optimizer="lbfgs")
    arms += [Arm(f"lbfgs, {few} steps", quasi.changed(steps=few)) for few in (8, 10)]
    stops = quasi.changed(tolerance=0.01)
    arms.append(Arm("lbfgs, tolerance 0.01", stops))
    with tempfile.TemporaryDirectory() as folder:
        found = by_arm(run_arms(bench, Path(folder), arms, bench.documents(n)))
    scores = {name: {one.document: one.correct for one in mine} for name, mine in found.items()}
    verdicts = {verdict.arm: verdict.report for verdict in judge(scores, PLAIN)}
    rows = []
    for name, mine in found.items():
        report = verdicts.get(name)
        table = None if report is None else report.table
        equal = [one.text == other.text for one, other in zip(mine, found[PLAIN], strict=True)]
        took = [one.record.steps for one in mine]
        rows.append(
            {
                "n": len(mine),
                "arm": name,
                "score": f"{sum(one.correct for one in mine) / len(mine):.4f}",
                "fixed": "" if table is None else table.fixed,
                "broken": "" if table is None else table.broken,
                "p": "" if report is None else f"{report.p_value:.2g}",
                "equal_answers": f"{sum(equal) / len(equal):.3f}",
                "mean_steps": f"{sum(took) / len(took):.1f}",
                "most_steps": max(took),
                "loop_s": f"{sum(one.record.seconds.loop for one in mine) / len(mine):.4f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
