"""``activation-replay compare``: two runs of either harness, item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_adapters.runs.comparable import check_comparable
from replay_adapters.runs.published import Published, published
from replay_adapters.runs.reader import read_runs, reading_run
from replay_adapters.runs.run import RunLog
from replay_adapters.settings.benchmarks import benchmark_of
from replay_core import UsageError
from replay_core.errors import shown
from replay_core.studies.stats.paired import PairedReport, paired_report
from replay_core.studies.stats.resampling import holm

INDEPENDENT = "none"
"""For ``cluster``: every item stands for itself, whatever is known of the benchmark."""


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
    cluster: str | None
    """The field whose equal values made clusters of items; None where items are independent."""


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

    Without ``metric`` it is the one that the paper's number is of, else the task's first. For
    ``cluster``, see :func:`compare_logs`.

    Raises:
        UsageError: they hold other tasks, or differ in what was asked or how it was answered or
            scored, except for the replay itself; the sentence names the difference.
    """
    ours, theirs = (
        {run.task: run for run in read_runs(folder, tasks, metric)} for folder in (a, b)
    )
    if ours.keys() != theirs.keys():
        raise UsageError(
            f"the runs hold different tasks: {shown(a)} has {', '.join(sorted(ours))}; {shown(b)} "
            f"has {', '.join(sorted(theirs))}; give --task"
        )
    pairs = [(run, theirs[task]) for task, run in ours.items()]
    return compare_logs(pairs, cluster=cluster, seed=seed)


def compare_logs(
    pairs: Sequence[tuple[RunLog, RunLog]], *, cluster: str | None = None, seed: int = 0
) -> list[TaskComparison]:
    """Return the comparison of each pair of runs that were read; the first is the baseline.

    ``cluster`` names items that belong together: ``question``, a field of the items, or ``none``.
    Without it that is what is known of the benchmark: the rotations of one question of HR-Bench,
    and what was made of one source problem in MathVerse, MMMU-Pro and DynaMath, are never
    independent.

    Raises:
        UsageError: two runs differ in more than the replay itself.
    """
    reports, names = [], []
    for run, other in pairs:
        with reading_run(run.path):
            check_comparable(run, other)
            name, clusters = _clusters(run, cluster)
            names.append(name)
            reports.append(paired_report(run.scores, other.scores, clusters, seed=seed))
    adjusted = holm([report.p_value for report in reports])
    return [
        TaskComparison(run, other, report, p, (published(run), published(other)), name)
        for (run, other), report, p, name in zip(pairs, reports, adjusted, names, strict=True)
    ]


def _clusters(run: RunLog, by: str | None) -> tuple[str | None, dict[Any, str] | None]:
    """Return what makes clusters of a run's items, and item → cluster; None for independent ones.

    Raises:
        UsageError: there is no such field, or it puts all items into one cluster.
    """
    name = by or _known_cluster(run)
    if name is None or name == INDEPENDENT:
        return None, None
    clusters = run.clusters(name)
    count = len(set(clusters.values()))
    if count < 2:
        raise UsageError(
            f"--cluster {name} puts all {len(clusters)} items of {run.task} into one cluster "
            f"(allowed: what tells at least two apart, or {INDEPENDENT})"
        )
    if by is None and count == len(clusters):
        return None, None
    return name, clusters


def _known_cluster(run: RunLog) -> str | None:
    """Return the first field that is known to make clusters of the benchmark and that items have.

    Rotations are told by the items themselves, so that a set of one's own has them too.
    """
    if run.rotated:
        return "question"
    benchmark = benchmark_of(run.task)
    fields = benchmark.cluster if benchmark else ()
    items = run.items.values()
    return next((name for name in fields if all(name in item.fields for item in items)), None)
