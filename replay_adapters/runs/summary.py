"""One table over many comparisons, with the paper's numbers beside the measured ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from replay_adapters.runs.compare import TaskComparison
from replay_core.studies.stats.paired import PairedReport

_EMPTY = "–"
Two = tuple[float | None, float | None]


@dataclass(frozen=True)
class SummaryLine:
    """One line of the table: a baseline and another run on one task, or what is yet to be run.

    Numbers are in percent, differences in points; the first of two is the baseline's.
    """

    name: str
    """What is compared, as a task, or a pair and a task."""
    methods: tuple[str, str] = ("none", "replay")
    published: Two = (None, None)
    """The paper's numbers; None where it has none."""
    measured: Two = (None, None)
    """Mean scores; None where a run is missing."""
    report: PairedReport | None = None
    """The paired comparison, in the harness's scores from 0 to 1; None where a run is missing."""
    p: float | None = None
    """The report's p-value, adjusted over all tasks that were compared together."""

    @property
    def published_difference(self) -> float | None:
        """The published difference, in points; None where one of the numbers is missing."""
        first, second = self.published
        return None if first is None or second is None else second - first

    @property
    def agrees(self) -> bool | None:
        """Whether the published difference lies inside the measured interval; None if unknown."""
        difference = self.published_difference
        if difference is None or self.report is None:
            return None
        return difference / 100 in self.report.interval


def summary_line(found: TaskComparison, name: str | None = None) -> SummaryLine:
    """Return a comparison's line; ``name`` is the task's without."""
    papers = tuple(paper.score if paper else None for paper in found.published)
    report = found.report
    return SummaryLine(
        name or found.a.task,
        (found.a.config["method"], found.b.config["method"]),
        (papers[0], papers[1]),
        (100 * report.score_a, 100 * report.score_b),
        report,
        found.holm_p,
    )


def summary_table(lines: Sequence[SummaryLine]) -> str:
    """Return the lines as a Markdown table whose columns are aligned.

    Columns are headed by the methods where all lines have the same two, else by a and b, and each
    line then says its own.
    """
    same = len({line.methods for line in lines}) == 1
    a, b = lines[0].methods if same else ("a", "b")
    heads = [
        *("compared", "n", f"published {a}", f"published {b}", f"measured {a}", f"measured {b}"),
        *("difference [95%]", "fixed / broken", "p (Holm)"),
        *("published difference", "inside the interval"),
    ]
    rows = [_cells(line, named=not same) for line in lines]
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    rule = ["-" * width for width in widths]
    return "\n".join(_joined(row, widths) for row in [heads, rule, *rows])


def _cells(line: SummaryLine, *, named: bool) -> list[str]:
    report, table = line.report, line.report.table if line.report else None
    methods = f" ({' → '.join(line.methods)})" if named else ""
    difference, counts = _EMPTY, _EMPTY
    if report:
        low, high = 100 * report.interval.low, 100 * report.interval.high
        difference = f"{100 * report.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        counts = f"{report.n}" + (f" in {report.clusters} clusters" if report.clusters else "")
    return [
        # A bar would end the cell.
        (line.name + methods).replace("|", "/"),
        counts,
        *(_number(value) for value in (*line.published, *line.measured)),
        difference,
        f"{table.fixed} / {table.broken}" if table else _EMPTY,
        _EMPTY if line.p is None else f"{line.p:.2g}",
        _number(line.published_difference, "{:+.1f}"),
        {True: "yes", False: "no", None: _EMPTY}[line.agrees],
    ]


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return _EMPTY if value is None else form.format(value)


def _joined(cells: Iterable[str], widths: Iterable[int]) -> str:
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"
