"""One table over the cells of a run file: what is published beside what was measured."""

from collections.abc import Iterator, Mapping, Sequence

from replay_adapters.runs.compare import compare_logs
from replay_adapters.runs.estimate import Estimate, Rates, estimate
from replay_adapters.runs.execute import log_of, state
from replay_adapters.runs.needs import lacks
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


def planned(cells: Sequence[Cell], rates: Rates, memory: float | None = None) -> str:
    """Return what running the cells would mean: what is needed, and how long it may take.

    ``memory`` is that of the machine's accelerator, in GB; cells that need more are named.
    """
    needs = {cell.name: estimate(cell, rates) for cell in cells}
    reasons = {c.name: why for c in cells if state(c) != "done" and (why := lacks(c))}
    numbers = {why: number for number, why in enumerate(dict.fromkeys(reasons.values()), 1)}
    heads = ("cell", "task", "items", "state", "judge", "published", "hours", "GB")
    rows = [heads, *(_planned(cell, needs[cell.name], numbers, reasons) for cell in cells)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    checkpoints = {p for c in cells for p in (c.settings.pair.policy, c.settings.pair.base)}
    checkpoints |= {c.settings.pair.processor for c in cells if c.settings.pair.processor}
    tasks = dict.fromkeys(cell.task for cell in cells)
    judged = dict.fromkeys(cell.task for cell in cells if cell.judge)
    lacking = [f"lacks {number}: {why}" for why, number in numbers.items()]
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "",
            *lacking,
            f"checkpoints: {', '.join(sorted(checkpoints))}",
            f"data sets: those of {', '.join(tasks)}",
            f"judges: {'for ' + ', '.join(judged) if judged else 'none'}",
            *_beyond(needs, memory),
            *_hours(cells, needs, rates),
        ]
    )


def _planned(
    cell: Cell, need: Estimate | None, numbers: Mapping[str, int], reasons: Mapping[str, str]
) -> tuple[str, ...]:
    hours = None if need is None else need.hours
    lacking = f", lacks {numbers[reasons[cell.name]]}" if cell.name in reasons else ""
    return (
        cell.name,
        cell.task,
        "?" if cell.items is None else str(cell.items),
        state(cell) + lacking,
        cell.judge or "–",
        "–" if cell.published is None else str(cell.published),
        "?" if hours is None else f"{hours:.1f}" + ("+" if cell.turns > 1 else ""),
        f"{need.gigabytes:.0f}" if need else "?",
    )


def _beyond(needs: Mapping[str, Estimate | None], memory: float | None) -> list[str]:
    """Return the line that names the cells for which memory is too small, if there are any."""
    if memory is None:
        return []
    large = [name for name, need in needs.items() if need and need.gigabytes > memory]
    return [f"more than {memory:g} GB: {', '.join(large) or 'none'}"]


def _hours(
    cells: Sequence[Cell], needs: Mapping[str, Estimate | None], rates: Rates
) -> Iterator[str]:
    """Yield the sum of the hours, what it is of, and what its marks mean."""
    hours = [need.hours for need in needs.values() if need and need.hours is not None]
    unknown = len(cells) - len(hours)
    turns = max(cell.turns for cell in cells)
    of = "" if not unknown else f" for {len(hours)} of {len(cells)} cells"
    most = "at most about" if turns == 1 else "about"
    yield (
        f"hours in all: {most} {sum(hours):.0f}{of}, done ones among them (estimated for one GPU "
        f"at {rates.tflops:g} TFLOP/s and {rates.bandwidth:g} GB/s, batches of 1, with the largest "
        "pictures and the longest answers that are allowed)"
    )
    if unknown:
        yield (
            "  ?: how many items there are, or how large the model is, is not known before they "
            "are here; not in the sum"
        )
    if turns > 1:
        yield f"  +: conversations of up to {turns} turns, counted as one of the longest answer"
