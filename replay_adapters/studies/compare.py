"""``activation-replay compare``: two runs of either harness, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from replay_adapters.resources import resource
from replay_adapters.studies.runs import ASPECTS, RunLog, content, read_runs
from replay_core import UsageError
from replay_core.studies.paired import PairedReport, paired_report
from replay_core.studies.resampling import holm


@dataclass(frozen=True)
class TaskComparison:
    """Two runs on one task; ``holm_p`` is adjusted over all tasks of the comparison."""

    a: RunLog
    b: RunLog
    report: PairedReport
    holm_p: float
    published: tuple[str, float, float] | None


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
    reports = []
    for task, run in ours.items():
        check_comparable(run, theirs[task])
        clusters = None if cluster is None else run.clusters(cluster)
        reports.append(paired_report(run.scores, theirs[task].scores, clusters, seed=seed))
    adjusted = holm([report.p_value for report in reports])
    return [
        TaskComparison(run, theirs[task], report, p, published(theirs[task]))
        for (task, run), report, p in zip(ours.items(), reports, adjusted, strict=True)
    ]


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
        if content(item) != content(other):
            raise UsageError(f"{where}: their prompt differs at document {document}")
    for aspect in ASPECTS:
        mine, its = a.facts.get(aspect, {}), b.facts.get(aspect, {})
        for name in sorted(mine.keys() | its.keys()):
            if mine.get(name) != its.get(name):
                raise UsageError(
                    f"{where}: their {aspect} differs ({name} is {mine.get(name)} in one and "
                    f"{its.get(name)} in the other)"
                )


def published(run: RunLog) -> tuple[str, float, float] | None:
    """Return (items, RLVR score, score with replay) of the paper, in percent, if it has both."""
    table = yaml.safe_load((resource("configs") / "published.yaml").read_text(encoding="utf-8"))
    results = table["results"].get((run.pair or "").removesuffix("_release"), {})
    for name, (plain, replayed) in results.items():
        benchmark = table["benchmarks"][name]
        if run.task in benchmark["tasks"]:
            return benchmark["items"], plain, replayed
    return None


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
    for name, run in (("a", a), ("b", b)):
        row[f"tokens_{name}"] = run.mean(lambda item: item.tokens)
        row[f"truncated_{name}"] = run.mean(lambda item: item.truncated)
    if found.published:
        _, row["published_a"], row["published_b"] = found.published
    return row


def told(found: TaskComparison) -> str:
    """Return a comparison as a small table of text."""
    report, row = found.report, row_of(found)
    lines = [
        (
            "items (n)",
            f"{report.n}" + (f" in {report.clusters} clusters" if report.clusters else ""),
        ),
        ("score a → b", f"{report.score_a:.4f} → {report.score_b:.4f}"),
        ("difference", f"{report.difference:+.4f}, 95% interval {report.interval}"),
    ]
    if report.table:
        lines += [("fixed / broken", f"{report.table.fixed} / {report.table.broken}")]
        used = "" if report.clusters is None else " (not for clusters)"
        lines += [("exact McNemar p", f"{report.table.p_value:.3g}{used}")]
    lines += [
        ("paired permutation p", f"{report.permutation_p:.3g}"),
        ("Holm over all tasks", f"{found.holm_p:.3g}"),
        ("minimum detectable", f"{report.minimum_detectable:.4f} (80% power, two-sided 5%)"),
        ("mean new tokens", _two(row["tokens_a"], row["tokens_b"], "{:.1f}")),
        ("cut answers", _two(row["truncated_a"], row["truncated_b"], "{:.1%}")),
    ]
    if found.published:
        items, plain, replayed = found.published
        lines += [(f"published ({items})", f"{plain} → {replayed}")]
    width = max(len(label) for label, _ in lines)
    body = "\n".join(f"  {label:<{width}}  {value}" for label, value in lines)
    return f"{found.a.task} ({found.a.harness}, {found.a.metric})\n{body}"


def _two(first: float | None, second: float | None, form: str) -> str:
    shown = [form.format(value) if value is not None else "not logged" for value in (first, second)]
    return " → ".join(shown)
