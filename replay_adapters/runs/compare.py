"""``activation-replay compare``: two runs of either harness, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_adapters.runs.published import Published, published
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.run import ASPECTS, RunLog
from replay_core import UsageError
from replay_core.studies.stats.paired import PairedReport, paired_report
from replay_core.studies.stats.resampling import holm


@dataclass(frozen=True)
class TaskComparison:
    """Two runs on one task, item by item."""

    a: RunLog
    """The baseline."""
    b: RunLog
    report: PairedReport
    """The difference of their scores, and how sure it is."""
    holm_p: float
    """The report's p-value, adjusted over all tasks of the comparison."""
    published: tuple[Published | None, Published | None]
    """The paper's own numbers for what a and b are; None where it has nothing on them."""


def compare_runs(
    a: Path,
    b: Path,
    *,
    tasks: Sequence[str] = (),
    metric: str | None = None,
    cluster: str | None = None,
    seed: int = 0,
) -> list[TaskComparison]:
    """Return the comparison of two folders' runs, task by task; ``a`` is the baseline.

    ``cluster`` names items that belong together: ``question``, or a field of the items. Rotations
    of one question are never independent, so that HR-Bench is clustered by question without it.

    Raises:
        UsageError: they hold other tasks, or differ in what was asked or how it was answered or
            scored, except for the replay itself; the sentence names the difference.
    """
    ours, theirs = (
        {run.task: run for run in read_runs(folder, tasks, metric)} for folder in (a, b)
    )
    if ours.keys() != theirs.keys():
        raise UsageError(
            f"the runs hold different tasks: {a} has {', '.join(sorted(ours))}; {b} has "
            f"{', '.join(sorted(theirs))}; give --task"
        )
    pairs = [(run, theirs[task]) for task, run in ours.items()]
    reports = []
    for run, other in pairs:
        check_comparable(run, other)
        clusters = _clusters(run, cluster or ("question" if run.rotated else None))
        reports.append(paired_report(run.scores, other.scores, clusters, seed=seed))
    adjusted = holm([report.p_value for report in reports])
    return [
        TaskComparison(run, other, report, p, (published(run), published(other)))
        for (run, other), report, p in zip(pairs, reports, adjusted, strict=True)
    ]


def _clusters(run: RunLog, by: str | None) -> dict[Any, str] | None:
    if by is None:
        return None
    clusters = run.clusters(by)
    if len(set(clusters.values())) < 2:
        raise UsageError(
            f"--cluster {by} puts all {len(clusters)} items of {run.task} into one cluster "
            "(allowed: what tells at least two apart)"
        )
    return clusters


def check_comparable(a: RunLog, b: RunLog) -> None:
    """Raise UsageError, with the difference, unless two runs asked and scored the same way."""
    where = f"the two runs on {a.task} are not comparable"
    if a.harness != b.harness:
        raise UsageError(f"{where}: one is of {a.harness}, the other of {b.harness}")
    if a.metric != b.metric:
        raise UsageError(f"{where}: they are scored by {a.metric} and by {b.metric}")
    if a.items.keys() != b.items.keys():
        first, second = a.items.keys() - b.items.keys(), b.items.keys() - a.items.keys()
        example = min(first or second, key=str)
        raise UsageError(
            f"{where}: their documents differ ({len(first)} only in the first, {len(second)} only "
            f"in the second, as {example})"
        )
    for document, item in a.items.items():
        other = b.items[document]
        if item.target != other.target:
            raise UsageError(
                f"{where}: their documents differ (document {document} has the target "
                f"{item.target!r} in one and {other.target!r} in the other)"
            )
        if item.asked != other.asked:
            raise UsageError(f"{where}: their prompt differs at document {document}")
    for aspect in ASPECTS:
        mine, its = a.facts.get(aspect, {}), b.facts.get(aspect, {})
        for name in sorted(mine.keys() | its.keys()):
            if mine.get(name) != its.get(name):
                raise UsageError(
                    f"{where}: their {aspect} differs ({name} is {mine.get(name)} in one and "
                    f"{its.get(name)} in the other)"
                )


def row_of(found: TaskComparison) -> dict[str, Any]:
    """Return one flat row for tables."""
    report, a, b = found.report, found.a, found.b
    row: dict[str, Any] = {
        "task": a.task,
        "harness": a.harness,
        "metric": a.metric,
        "n": report.n,
        "clusters": report.clusters,
        "score_a": report.score_a,
        "score_b": report.score_b,
        "difference": report.difference,
        "low": report.interval.low,
        "high": report.interval.high,
        "fixed": report.table.fixed if report.table else None,
        "broken": report.table.broken if report.table else None,
        "mcnemar_p": report.table.p_value if report.table else None,
        "permutation_p": report.permutation_p,
        "holm_p": found.holm_p,
        "minimum_detectable": report.minimum_detectable,
    }
    for name, run, paper in (("a", a, found.published[0]), ("b", b, found.published[1])):
        row[f"method_{name}"] = run.config["method"]
        row[f"harness_{name}"] = run.reported
        row[f"unscored_{name}"] = run.unscored
        row[f"tokens_{name}"] = run.mean(lambda item: item.tokens)
        row[f"truncated_{name}"] = run.mean(lambda item: item.truncated)
        row[f"published_{name}"] = paper.score if paper else None
        row[f"published_note_{name}"] = "; ".join(paper.notes) if paper else None
    return row


def told(found: TaskComparison) -> str:
    """Return a comparison as a small table of text."""
    lines = [*_difference(found), *_runs(found), *_paper(found)]
    width = max(len(label) for label, _ in lines)
    body = "\n".join(f"  {label:<{width}}  {value}" for label, value in lines)
    return f"{found.a.task} ({found.a.harness}, {found.a.metric})\n{body}"


def _difference(found: TaskComparison) -> list[tuple[str, str]]:
    report = found.report
    clusters = f" in {report.clusters} clusters" if report.clusters else ""
    lines = [
        ("items (n)", f"{report.n}{clusters}"),
        ("score a → b", f"{report.score_a:.4f} → {report.score_b:.4f}"),
        ("difference", f"{report.difference:+.4f}, 95% interval {report.interval}"),
    ]
    if report.table:
        used = "" if report.clusters is None else " (not for clusters)"
        lines += [
            ("fixed / broken", f"{report.table.fixed} / {report.table.broken}"),
            ("exact McNemar p", f"{report.table.p_value:.3g}{used}"),
        ]
    return [
        *lines,
        ("paired permutation p", f"{report.permutation_p:.3g}"),
        ("Holm over all tasks", f"{found.holm_p:.3g}"),
        ("minimum detectable", f"{report.minimum_detectable:.4f} (80% power, two-sided 5%)"),
    ]


def _runs(found: TaskComparison) -> list[tuple[str, str]]:
    row = row_of(found)
    lines = [
        ("method", f"{row['method_a']} → {row['method_b']}"),
        ("mean new tokens", _two(row["tokens_a"], row["tokens_b"], "{:.1f}")),
        ("cut answers", _two(row["truncated_a"], row["truncated_b"], "{:.1%}")),
    ]
    if found.a.unscored or found.b.unscored:
        lines += [("without a score", f"{found.a.unscored} → {found.b.unscored}, taken as wrong")]
    if found.a.own_number is not None or found.b.own_number is not None:
        both = _two(found.a.reported, found.b.reported, "{:.4g}")
        lines += [("the harness's own", f"{both}, which is no mean over these items")]
    return lines


def _paper(found: TaskComparison) -> list[tuple[str, str]]:
    """Return the paper's numbers in the order of the runs, and below what each was made with."""
    papers = dict(zip("ab", found.published, strict=True))
    known = next((paper for paper in papers.values() if paper), None)
    if known is None:
        return []
    shown = [str(paper.score) if paper and paper.score else "none" for paper in papers.values()]
    lines = [("published a → b", f"{' → '.join(shown)} % ({known.items})")]
    for name, paper in papers.items():
        notes = paper.notes if paper else ("the paper has nothing on this policy",)
        lines += [(f"published {name}", note) for note in notes]
    return lines


def _two(first: float | None, second: float | None, form: str) -> str:
    shown = [form.format(value) if value is not None else "not logged" for value in (first, second)]
    return " → ".join(shown)
