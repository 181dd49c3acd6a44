"""What is shown of a comparison: a flat row for tables and files, and a small table of text."""

from dataclasses import asdict, dataclass
from typing import Any

from replay_adapters.runs.compare import TaskComparison


@dataclass(frozen=True)
class ComparisonRow:
    """One comparison, flat; what ends in ``_a`` is the baseline's, in ``_b`` the other run's."""

    task: str
    harness: str
    metric: str
    n: int
    cluster: str | None
    """The field that made clusters of the items; None where they are independent."""
    clusters: int | None
    score_a: float
    score_b: float
    difference: float
    low: float
    high: float
    fixed: int | None
    broken: int | None
    mcnemar_p: float | None
    permutation_p: float
    holm_p: float
    minimum_detectable: float
    method_a: str
    method_b: str
    harness_a: float | None
    """The harness's own number for the metric, in whatever unit it has."""
    harness_b: float | None
    unscored_a: int
    """Answers that the scorer could not score; they count as wrong."""
    unscored_b: int
    tokens_a: float | None
    tokens_b: float | None
    truncated_a: float | None
    truncated_b: float | None
    published_a: float | None
    """The paper's number, in percent."""
    published_b: float | None
    published_note_a: str | None
    published_note_b: str | None

    def fields(self) -> dict[str, Any]:
        """Return name → value, in this order, for files."""
        return asdict(self)


def row_of(found: TaskComparison) -> ComparisonRow:
    """Return a comparison as one flat row."""
    report, (a, b), (paper_a, paper_b) = found.report, (found.a, found.b), found.published
    return ComparisonRow(
        task=a.task,
        harness=a.harness,
        metric=a.metric,
        n=report.n,
        cluster=found.cluster,
        clusters=report.clusters,
        score_a=report.score_a,
        score_b=report.score_b,
        difference=report.difference,
        low=report.interval.low,
        high=report.interval.high,
        fixed=report.table.fixed if report.table else None,
        broken=report.table.broken if report.table else None,
        mcnemar_p=report.table.p_value if report.table else None,
        permutation_p=report.permutation_p,
        holm_p=found.holm_p,
        minimum_detectable=report.minimum_detectable,
        method_a=a.config["method"],
        method_b=b.config["method"],
        harness_a=a.reported,
        harness_b=b.reported,
        unscored_a=a.unscored,
        unscored_b=b.unscored,
        tokens_a=a.mean(lambda item: item.tokens),
        tokens_b=b.mean(lambda item: item.tokens),
        truncated_a=a.mean(lambda item: item.truncated),
        truncated_b=b.mean(lambda item: item.truncated),
        published_a=paper_a.score if paper_a else None,
        published_b=paper_b.score if paper_b else None,
        published_note_a="; ".join(paper_a.notes) if paper_a else None,
        published_note_b="; ".join(paper_b.notes) if paper_b else None,
    )


def told(found: TaskComparison) -> str:
    """Return a comparison as a small table of text."""
    row = row_of(found)
    lines = [*_difference(found), *_runs(found, row), *_paper(found)]
    width = max(len(label) for label, _ in lines)
    body = "\n".join(f"  {label:<{width}}  {value}" for label, value in lines)
    return f"{row.task} ({row.harness}, {row.metric})\n{body}"


def _difference(found: TaskComparison) -> list[tuple[str, str]]:
    report = found.report
    clusters = f" in {report.clusters} clusters by {found.cluster}" if report.clusters else ""
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


def _runs(found: TaskComparison, row: ComparisonRow) -> list[tuple[str, str]]:
    lines = [
        ("method", f"{row.method_a} → {row.method_b}"),
        ("mean new tokens", _two(row.tokens_a, row.tokens_b, "{:.1f}")),
        ("cut answers", _two(row.truncated_a, row.truncated_b, "{:.1%}")),
    ]
    if row.unscored_a or row.unscored_b:
        lines += [("without a score", f"{row.unscored_a} → {row.unscored_b}, taken as wrong")]
    if found.a.own_number is not None or found.b.own_number is not None:
        both = _two(row.harness_a, row.harness_b, "{:.4g}")
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
