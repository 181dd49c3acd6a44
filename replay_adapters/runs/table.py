"""One table over the cells of a run file: what is published beside what was measured."""

from collections.abc import Sequence

from replay_adapters.runs.compare import compare_logs
from replay_adapters.runs.estimate import Rates, estimate
from replay_adapters.runs.execute import log_of, state
from replay_adapters.runs.plan import Cell
from replay_adapters.runs.summary import SummaryLine, summary_line, summary_table
from replay_adapters.settings.run_files import BASELINE


def report(cells: Sequence[Cell]) -> str:
    """Return the table: a line for each arm against its baseline, those that are not run too.

    p-values are adjusted over all lines of the table that both runs of are finished.

    Raises:
        UsageError: two finished runs differ in more than the replay itself.
    """
    baselines = {(c.row.pair, c.benchmark): c for c in cells if c.arm == BASELINE}
    steered = [cell for cell in cells if cell.arm != BASELINE]
    pairs = [(baselines[cell.row.pair, cell.benchmark], cell) for cell in steered]
    logs = [(log_of(a), log_of(b)) for a, b in pairs]
    finished = [(a, b) for a, b in logs if a is not None and b is not None]
    compared = iter(compare_logs(finished) if finished else ())
    lines = []
    for (base, cell), (a, b) in zip(pairs, logs, strict=True):
        name = f"{cell.row.pair} {cell.benchmark}"
        published = (base.published, cell.published)
        if a is not None and b is not None:
            line = summary_line(next(compared), name)
            methods, p = (BASELINE, cell.arm), line.p
            lines.append(SummaryLine(name, methods, published, line.measured, line.report, p))
        else:
            lines.append(SummaryLine(name, (BASELINE, cell.arm), published))
    return summary_table(lines)


def planned(cells: Sequence[Cell], rates: Rates) -> str:
    """Return what running the cells would mean: what is needed, and how long it may take."""
    heads = ("cell", "task", "items", "state", "judge", "published", "hours", "GB")
    rows = [heads]
    hours = 0.0
    for cell in cells:
        needed = estimate(cell, rates)
        known = needed is not None and needed.hours is not None
        hours += needed.hours or 0.0 if needed is not None else 0.0
        rows.append(
            (
                cell.name,
                cell.task,
                "?" if cell.items is None else str(cell.items),
                state(cell),
                cell.judge or "–",
                "–" if cell.published is None else str(cell.published),
                f"{needed.hours:.1f}" if known and needed else "?",
                f"{needed.gigabytes:.0f}" if needed else "?",
            )
        )
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    checkpoints = {p for c in cells for p in (c.settings.pair.policy, c.settings.pair.base)}
    checkpoints |= {c.settings.pair.processor for c in cells if c.settings.pair.processor}
    tasks = dict.fromkeys(cell.task for cell in cells)
    judged = dict.fromkeys(cell.task for cell in cells if cell.judge)
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "",
            f"checkpoints: {', '.join(sorted(checkpoints))}",
            f"data sets: those of {', '.join(tasks)}",
            f"judges: {'for ' + ', '.join(judged) if judged else 'none'}",
            f"hours in all: at most about {hours:.0f} (estimated for one GPU at {rates.tflops:g} "
            f"TFLOP/s and {rates.bandwidth:g} GB/s, batches of 1, with the largest pictures and "
            "the longest answers that are allowed; a ? is not known before the data are there)",
        ]
    )
