"""How much of the loop can one forward do? A map from the policy's features to x, without labels.

It is learned on the first documents and measured on those behind them. What a pair whose vision
tower drifted could do without any learning stands beside it: x = base's features - policy's.
"""

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from pydantic import Field
from tqdm import tqdm

from replay_core.amortised import Provenance, learn
from replay_core.config import ReplayConfig
from replay_core.errors import UsageError
from replay_core.model.padding import left_padded
from replay_core.outcome import Outcome
from replay_core.pair.pair import frozen
from replay_core.problem import ReplayProblem
from replay_core.record import library_versions
from replay_core.steered import Steered
from replay_core.studies.answers import Answered, by_arm, run_arms
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.bench import Bench, chunks
from replay_core.studies.figures import PALETTE, canvas, save
from replay_core.studies.grid import mean_curve
from replay_core.studies.report import text_table, write_study
from replay_core.studies.result import Number, Result, shown
from replay_core.studies.trial import judge, settings_of

LOOP, FILE = "loop", "amortised.safetensors"
STEPS = (0, 2, 5)


class ArmFound(Result):
    """One way to find x, against the loop on the same items."""

    arm: str = Field(description="the arm's name")
    steps: int = Field(description="gradient steps")
    n: int = Field(description="number of items")
    score: float = Field(description="mean score")
    difference: float = Field(description="mean of its score minus the loop's")
    low: Number = Field(description="lower end of the difference's 95% bootstrap interval")
    high: Number = Field(description="upper end of it")
    fixed: int | None = Field(description="items wrong with the loop and right here")
    broken: int | None = Field(description="items right with the loop and wrong here")
    p: float = Field(description="exact McNemar, or permutation for scores between 0 and 1")
    applied: int = Field(description="items whose answer is steered")
    loss_before: Number = Field(None, description="mean masked KL at x = 0, in nats")
    loss_after: Number = Field(None, description="mean masked KL at the end, in nats")
    removed: Number = Field(
        None, description="what it takes off the mean masked KL, as a share of what the loop does"
    )
    median_removed: Number = Field(None, description="median over items of that share")
    seconds: float = Field(description="mean seconds of base and loop per answer")


class AmortiseResult(Result):
    """The map, and every arm against the loop."""

    arms: dict[str, ArmFound] = Field(description="arm → its comparison")
    epochs: tuple[float, ...] = Field(description="mean loss on the prompts learned on, by epoch")
    difference_removed: Number = Field(
        description="the same share for x = base's features - policy's, which learns nothing"
    )
    seconds: float = Field(description="seconds of learning")

    def told(self) -> str:
        """Return the arms as a table, for people."""
        forms = {"arm": "", "steps": "", "n": "", "score": ".3f", "difference": "+.3f"}
        forms |= {"fixed": "", "broken": "", "p": ".2g", "loss_after": ".3g", "removed": ".3f"}
        forms |= {"median_removed": ".3f", "seconds": ".3f"}
        table = text_table(forms, [arm.findings() for arm in self.arms.values()])
        return (
            f"{table}\n\nx = the base's visual features - the policy's: removed "
            f"{shown(self.difference_removed):.3f}"
        )


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    held_out: int = 200,
    epochs: int = 20,
    width: int = 256,
    learning_rate: float = 1e-3,
    steps: Sequence[int] = STEPS,
    metric: str | None = None,
    seed: int = 0,
) -> AmortiseResult:
    """Learn a map on ``n`` documents, measure it on the ``held_out`` behind; write both.

    Raises:
        UsageError: no document is left to measure on, or one has no picture.
    """
    documents, config = bench.documents(n), bench.config.changed(method="replay", start=None)
    others = bench.documents(held_out, offset=max(documents) + 1)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with frozen(bench.pair.policy.model), tqdm(total=epochs, desc="amortise", unit="epoch") as bar:
        problems = posed(bench, config, documents)
        amortised, losses = learn(
            problems,
            width=width,
            epochs=epochs,
            learning_rate=learning_rate,
            seed=seed,
            after_epoch=lambda: bar.update(),
        )
        del problems
        seconds = time.perf_counter() - started
        difference = _difference(bench, config, others)
    provenance = Provenance(
        pair=bench.pair.name,
        policy_revision=bench.pair.policy_revision,
        base_revision=bench.pair.base_revision,
        dtype=str(bench.pair.policy.dtype),
        task=bench.name,
        documents=(documents[0], documents[-1]),
        n=len(documents),
        config=config.model_dump(mode="json"),
        width=width,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        losses=losses,
        versions=library_versions(),
    )
    path = folder / FILE
    amortised.save(path, provenance)
    arms = arms_of(config, path, steps)
    answers = by_arm(run_arms(bench, folder, arms, others, metric=metric, label="amortise"))
    result = AmortiseResult(
        arms={row.arm: row for row in _compared(answers, seed)},
        epochs=losses,
        difference_removed=_share(difference, {one.document: one for one in answers[LOOP]}),
        seconds=seconds,
    )
    asked = {"held_out": len(others), "learned": provenance.model_dump(mode="json")}
    write_study(
        folder,
        "amortise",
        settings=settings_of(bench, arms, len(documents), metric, **asked),
        table=[arm.findings() for arm in result.arms.values()],
        findings=result.findings(),
        seed=seed,
    )
    deepest = max(steps)
    curves = {
        name: mean_curve([one.losses for one in answers[name]], count)
        for name, count in ((LOOP, config.steps), (f"map + {deepest} steps", deepest))
    }
    draw(folder / "amortise.png", result, curves)
    return result


def posed(bench: Bench, config: ReplayConfig, documents: Sequence[int]) -> list[ReplayProblem]:
    """Return the losses of documents, batch by batch, as functions of x.

    Raises:
        UsageError: a batch has no picture.
    """
    steered, found = Steered(bench.pair, config), []
    for chunk in chunks(bench, documents):
        for prompts in bench.prompts(chunk):
            seeds = [bench.seed(document) for document in prompts.documents]
            try:
                found.append(steered.problem(prompts.inputs, seeds=seeds))
            except ValueError as error:
                raise UsageError(f"task {bench.name}, documents {chunk}: {error}") from error
    return found


def arms_of(config: ReplayConfig, path: Path, steps: Sequence[int] = STEPS) -> list[Arm]:
    """Return the loop, the policy, the map alone, and few steps from the map's x and from 0.

    Few steps take the best iterate: at an α that suits 25 steps, the first ones may climb far above
    a good start before they come down.
    """
    start = {"start": str(path)}
    arms = [Arm(LOOP, config), baseline(config)]
    arms.append(Arm("map alone, no base", config.changed(method="amortised", **start)))
    few = config.changed(keep="best")
    arms += [Arm(f"map + {n} steps", few.changed(steps=n, **start)) for n in steps]
    arms += [Arm(f"{n} steps from 0", few.changed(steps=n)) for n in steps if n > 0]
    return arms


def _difference(bench: Bench, config: ReplayConfig, documents: Sequence[int]) -> dict[int, float]:
    """Return document → loss with x = the base's visual features - the policy's, in nats."""
    steered, pair = Steered(bench.pair, config), bench.pair
    found: dict[int, float] = {}
    for chunk in chunks(bench, documents):
        for prompts in bench.prompts(chunk):
            seeds = [bench.seed(document) for document in prompts.documents]
            problem = steered.problem(prompts.inputs, seeds=seeds)
            with torch.no_grad(), pair.as_base():
                _, seen = pair.seen_by_base(left_padded(prompts.inputs), problem.features)
                assert seen is not None  # the policy saw pictures, too
                ours = problem.features.flat.to(problem.dtype)
                losses = problem.losses(seen.flat.to(ours) - ours).tolist()
            found |= dict(zip(prompts.documents, losses, strict=True))
    return found


def _compared(answers: Mapping[str, Sequence[Answered]], seed: int) -> list[ArmFound]:
    """Return every arm against the loop, which comes first."""
    scores: dict[str, dict[Hashable, float]] = {
        name: {one.document: one.correct for one in mine} for name, mine in answers.items()
    }
    verdicts = {verdict.arm: verdict for verdict in judge(scores, LOOP, seed=seed)}
    loop = {one.document: one for one in answers[LOOP]}
    rows = []
    for name, mine in answers.items():
        records = [one.record for one in mine]
        known: dict[str, Any] = {
            "fixed": 0,
            "broken": 0,
            "p": 1.0,
            "difference": 0.0,
            "low": 0.0,
            "high": 0.0,
        }
        if name in verdicts:
            report = verdicts[name].report
            table, interval = report.table, report.interval
            known = {
                "difference": report.difference,
                "low": interval.low,
                "high": interval.high,
                "fixed": None if table is None else table.fixed,
                "broken": None if table is None else table.broken,
                "p": report.p_value,
            }
        after = {
            one.document: one.record.loss_after for one in mine if one.record.loss_after is not None
        }
        paired = [(value, *_ends(loop[document])) for document, value in after.items()]
        rows.append(
            ArmFound(
                arm=name,
                steps=max(record.steps for record in records),
                n=len(mine),
                score=fmean(one.correct for one in mine),
                applied=sum(record.outcome is Outcome.APPLIED for record in records),
                loss_before=fmean(before for _, before, _ in paired) if paired else None,
                loss_after=fmean(after.values()) if after else None,
                removed=_share(after, loop),
                median_removed=_median(paired),
                seconds=fmean(record.seconds.base + record.seconds.loop for record in records),
                **known,
            )
        )
    return rows


def _ends(one: Answered) -> tuple[float, float]:
    """Return the loop's loss of an item at x = 0 and at its end, in nats."""
    return shown(one.record.loss_before), shown(one.record.loss_after)


def _share(after: Mapping[int, float], loop: Mapping[int, Answered]) -> float | None:
    """Return how far losses (document → nats) lie below x = 0's, as a share of the loop's."""
    ends = [(value, *_ends(loop[document])) for document, value in after.items()]
    ends = [row for row in ends if all(map(math.isfinite, row))]
    taken = sum(before - end for _, before, end in ends)
    return sum(before - value for value, before, _ in ends) / taken if taken > 0 else None


def _median(ends: Sequence[tuple[float, float, float]]) -> float | None:
    shares = [
        (before - value) / (before - end)
        for value, before, end in ends
        if math.isfinite(value) and before > end
    ]
    return median(shares) if shares else None


def draw(path: Path, result: AmortiseResult, curves: Mapping[str, Sequence[float]]) -> None:
    """Draw the mean loss in the loop from 0 and from the map's x, and while the map was learned."""
    figure, axes = canvas(10.0, 4.0, 2)
    for number, (name, curve) in enumerate(curves.items()):
        axes[0].plot(curve, color=PALETTE[number % len(PALETTE)], label=name, marker=".")
    axes[0].set(title="mean masked KL during the loop", xlabel="step", yscale="log")
    axes[0].set_ylabel("nats")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].plot(range(1, len(result.epochs) + 1), result.epochs, color=PALETTE[0], marker=".")
    axes[1].set(title="mean masked KL while the map is learned", xlabel="epoch", yscale="log")
    save(figure, path)
