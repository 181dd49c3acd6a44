"""Arms tried against a baseline on the same items: answers, verdicts, table and figure."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from pydantic import Field

from replay_core.studies.answers import Answered, by_arm, run_arms
from replay_core.studies.arms import BASELINE, Arm
from replay_core.studies.bench import Bench
from replay_core.studies.figures import forest
from replay_core.studies.report import text_table, write_study
from replay_core.studies.result import Number, Result, shown
from replay_core.studies.stats.paired import PairedReport, paired_report
from replay_core.studies.stats.resampling import holm


class ArmResult(Result):
    """One arm against the baseline on the same items. Scores and differences are shares."""

    arm: str = Field(description="the arm's name")
    n: int = Field(description="number of items")
    baseline: float = Field(description="mean score of the baseline")
    score: float = Field(description="mean score of the arm")
    difference: float = Field(description="mean of the arm's score minus the baseline's")
    low: Number = Field(description="lower end of the difference's 95% bootstrap interval")
    high: Number = Field(description="upper end of it")
    fixed: int | None = Field(description="items wrong in the baseline and right in the arm")
    broken: int | None = Field(description="items right in the baseline and wrong in the arm")
    p: float = Field(description="exact McNemar, or permutation for scores between 0 and 1")
    holm_p: float = Field(description="p adjusted over the arms of the table (Holm 1979)")
    permutation_p: float = Field(description="two-sided paired permutation test")
    minimum_detectable: Number = Field(
        description="the true difference that would have been found with 80% power"
    )
    outcomes: str = Field(description="how often replay ended how")
    loss_before: Number = Field(None, description="mean masked KL at x = 0, in nats")
    loss_after: Number = Field(None, description="mean masked KL at the end, in nats")
    masked: Number = Field(None, description="mean share of candidates that were matched")
    seconds: float = Field(description="mean seconds per answer")
    tokens: Number = Field(None, description="mean number of new tokens")
    truncated: Number = Field(None, description="share of answers that were cut")


class TrialResult(Result):
    """Every arm against the baseline."""

    arms: dict[str, ArmResult] = Field(description="arm → its comparison")

    def findings(self) -> dict[str, Any]:
        """Return arm → its numbers, as the JSON holds them."""
        return {name: arm.findings() for name, arm in self.arms.items()}

    @classmethod
    def read(cls, findings: Mapping[str, Any]) -> Self:
        """Return the result that a study's JSON holds under ``findings``."""
        return cls.model_validate({"arms": findings})

    def told(self) -> str:
        """Return the arms as a table, for people."""
        return told(self.arms.values())


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline; ``holm_p`` is adjusted over the arms of its table."""

    arm: str
    report: PairedReport
    holm_p: float


def run(
    bench: Bench,
    folder: Path,
    study: str,
    arms: Sequence[Arm],
    n: int | None,
    *,
    metric: str | None = None,
    seed: int = 0,
) -> TrialResult:
    """Answer ``n`` documents under every arm, one of which is the baseline; write the study."""
    documents = bench.documents(n)
    answers = run_arms(bench, folder, arms, documents, metric=metric, label=study)
    result = TrialResult(arms={arm.arm: arm for arm in compared(answers, seed)})
    settings = {
        **settings_of(bench, arms, len(documents), metric),
        "batch_size": bench.batch_size,
    }
    table = list(result.findings().values())
    write_study(
        folder, study, settings=settings, table=table, findings=result.findings(), seed=seed
    )
    draw(folder / f"{study}.png", study, result)
    return result


def settings_of(
    bench: Bench, arms: Sequence[Arm], n: int, metric: str | None, **more: Any
) -> dict[str, Any]:
    """Return what a study of arms says of how it was made."""
    named = {arm.name: arm.settings() for arm in arms}
    return {**bench.identity(), "metric": metric, "n": n, **more, "arms": named}


def compared(answers: Sequence[Answered], seed: int = 0) -> list[ArmResult]:
    """Return every arm's comparison with the baseline, with outcomes and costs."""
    arms = by_arm(answers)
    scores: dict[str, dict[Hashable, float]] = {
        name: {one.document: one.correct for one in mine if one.repeat == 0}
        for name, mine in arms.items()
    }
    return [_result(verdict, arms[verdict.arm]) for verdict in judge(scores, BASELINE, seed=seed)]


def judge(
    scores: Mapping[str, Mapping[Hashable, float]],
    baseline: str,
    clusters: Mapping[Hashable, Hashable] | None = None,
    *,
    seed: int = 0,
) -> list[Verdict]:
    """Return every arm's comparison with ``baseline``; ``scores`` is arm → item → score."""
    names = [name for name in scores if name != baseline]
    reports = [paired_report(scores[baseline], scores[name], clusters, seed=seed) for name in names]
    adjusted = holm([report.p_value for report in reports])
    return [Verdict(*row) for row in zip(names, reports, adjusted, strict=True)]


def _result(verdict: Verdict, answers: Sequence[Answered]) -> ArmResult:
    report, records = verdict.report, [one.record for one in answers]
    counts = Counter(record.outcome.value for record in records)
    return ArmResult(
        arm=verdict.arm,
        n=report.n,
        baseline=report.score_a,
        score=report.score_b,
        difference=report.difference,
        low=report.interval.low,
        high=report.interval.high,
        fixed=report.table.fixed if report.table else None,
        broken=report.table.broken if report.table else None,
        p=report.p_value,
        holm_p=verdict.holm_p,
        permutation_p=report.permutation_p,
        minimum_detectable=report.minimum_detectable,
        outcomes=" ".join(f"{name}:{n}" for name, n in sorted(counts.items())),
        loss_before=_mean(one.losses[0] for one in answers if one.losses),
        loss_after=_mean(r.loss_after for r in records if r.loss_after is not None),
        masked=_mean(share for r in records for share in r.masked_fraction.values()),
        seconds=fmean(one.seconds for one in answers),
        tokens=_mean(r.new_tokens for r in records if r.new_tokens is not None),
        truncated=_mean(float(r.truncated) for r in records if r.truncated is not None),
    )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None


def told(arms: Iterable[ArmResult]) -> str:
    """Return arms as a table, for people."""
    columns = {
        **{"arm": "", "n": "d", "baseline": ".3f", "score": ".3f", "difference": "+.3f"},
        **{"low": "+.3f", "high": "+.3f", "fixed": "d", "broken": "d", "p": ".2g"},
        **{"holm_p": ".2g", "minimum_detectable": ".3f"},
    }
    return text_table(columns, [arm.findings() for arm in arms])


def draw(path: Path, study: str, result: TrialResult) -> None:
    """Draw every arm's difference from the baseline with its interval."""
    arms = list(result.arms.values())
    points = [
        (
            f"{arm.arm}  {arm.fixed}/{arm.broken}  p={arm.p:.2g}",
            100 * arm.difference,
            100 * shown(arm.low),
            100 * shown(arm.high),
        )
        for arm in arms
    ]
    title = (
        f"{study}: difference from {BASELINE} ({arms[0].baseline:.1%}, n = {arms[0].n}); "
        "fixed/broken"
    )
    forest(path, points, title=title, xlabel="points, with 95% interval")
