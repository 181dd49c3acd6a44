"""Arms: named settings that answer the same items, each compared with one baseline."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from replay_core.config import ReplayConfig
from replay_core.studies.stats.paired import PairedReport, paired_report
from replay_core.studies.stats.resampling import holm

Treatment = Literal["plain", "self_pair", "shuffled", "random_x", "votes"]


@dataclass(frozen=True)
class Arm:
    """One way to answer: a name, the settings, and what else is done to the pair, targets or x.

    ``plain``: nothing else. ``self_pair``: the base is the policy itself. ``shuffled``: the targets
    come from another picture. ``random_x``: x is replaced by noise of the same norm per token.
    ``votes``: the most frequent final answer of ``votes`` sampled ones, without replay.
    """

    name: str
    config: ReplayConfig
    treatment: Treatment = "plain"
    votes: int = 1

    def settings(self) -> dict[str, Any]:
        """Return what the arm's answers depend on."""
        return {
            "config": self.config.model_dump(mode="json"),
            "treatment": self.treatment,
            "votes": self.votes,
        }


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline; ``holm_p`` is adjusted over the arms of its table."""

    arm: str
    report: PairedReport
    holm_p: float


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
    rows = zip(names, reports, adjusted, strict=True)
    return [Verdict(name, report, p) for name, report, p in rows]


def rows_of(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return one flat row per arm, for tables."""
    rows = []
    for verdict in verdicts:
        report = verdict.report
        rows.append(
            {
                "arm": verdict.arm,
                "n": report.n,
                "baseline": report.score_a,
                "score": report.score_b,
                "difference": report.difference,
                "low": report.interval.low,
                "high": report.interval.high,
                "fixed": report.table.fixed if report.table else None,
                "broken": report.table.broken if report.table else None,
                "p": report.p_value,
                "holm_p": verdict.holm_p,
                "permutation_p": report.permutation_p,
                "minimum_detectable": report.minimum_detectable,
            }
        )
    return rows
