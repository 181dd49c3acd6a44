"""The pictures of the studies, drawn with matplotlib."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from replay_core.studies.stats.paired import PairedComparison

BLUE, GREY, GREEN, RED = "#2962a6", "#b8bec6", "#2e8b57", "#c0392b"
PALETTE = ("#6b7280", BLUE, GREEN, RED, "#d08a1d", "#7a4fa3", "#1b9aaa", "#8c564b")


def canvas(width: float, height: float, columns: int = 1, **how: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` x ``height`` inches with a row of axes; needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **how)
    row: list[Axes] = list(axes[0])
    for one in row:
        one.spines[["top", "right"]].set_visible(False)
    return figure, row


def literal(text: str) -> str:
    """Return a text that matplotlib draws as it stands.

    It takes what lies between two dollars for mathematics, which fails on most of LaTeX, and cannot
    draw lone surrogates: what has no character of its own is drawn as the replacement character.
    """
    drawn = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    return drawn.replace("$", r"\$")


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG of 150 dots per inch, without the time in it."""
    figure.savefig(path, dpi=150, metadata={"Software": None})


def draw_compare(path: Path, rows: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> None:
    """Draw each task's difference with its interval."""
    points = [
        (
            f"{row['task']}: {100 * row['score_a']:.1f} → {100 * row['score_b']:.1f}\n"
            f"n = {row['n']}, Holm p = {row['holm_p']:.2g}",
            100 * row["difference"],
            100 * row["low"],
            100 * row["high"],
        )
        for row in rows
    ]
    forest(path, points, title=f"{names[1]} minus {names[0]}", xlabel="points, with 95% interval")


def forest(
    path: str | Path,
    rows: Sequence[tuple[str, float, float, float]],
    *,
    title: str,
    xlabel: str,
) -> None:
    """Draw (label, estimate, low, high) as points with intervals around a line at 0."""
    figure, (axes,) = canvas(7.2, 1.4 + 0.3 * len(rows))
    for y, (_, estimate, low, high) in enumerate(rows):
        clear = low > 0 or high < 0
        colour = (GREEN if estimate > 0 else RED) if clear else "#6b7280"
        axes.plot((low, high), (y, y), color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(estimate, y, "o", color=colour, markersize=5)
    axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [literal(label) for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlabel=xlabel)
    figure.suptitle(literal(title), fontsize=10)
    axes.grid(axis="x", color="#eceff3")
    axes.set_axisbelow(True)
    save(figure, path)


@dataclass(frozen=True)
class RunPanel:
    """What a picture shows of one pair's runs."""

    name: str
    losses: Sequence[tuple[float, float]]
    """(before, after) in nats of the samples that replay was applied to."""
    comparisons: Mapping[str, PairedComparison]
    """What was done → its comparison with the policy alone; the first is replay."""


def run_picture(path: Path, panels: Sequence[RunPanel]) -> None:
    """Draw, a row per panel, what replay did to the loss of each sample, and to the answers."""
    figure = Figure(figsize=(10, 3.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(1, 1.25))
    most = max(max(c.fixed, c.broken) for panel in panels for c in panel.comparisons.values())
    for (left, right), panel in zip(grid, panels, strict=True):
        _draw_losses(left, panel)
        _draw_changes(right, panel, most)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    save(figure, path)


def _draw_losses(axes: Axes, panel: RunPanel) -> None:
    drawn = [pair for pair in panel.losses if min(pair) > 0]  # the axes are logarithmic
    before, after = zip(*drawn, strict=True) if drawn else ((), ())
    axes.scatter(before, after, s=10, alpha=0.5, color=BLUE, linewidths=0)
    if drawn:
        # Whole decades, which alone have ticks that can be read.
        low = 10 ** math.floor(math.log10(min(*before, *after)))
        high = 10 ** math.ceil(math.log10(max(*before, *after)))
        axes.plot((low, high), (low, high), color=GREY, linewidth=1, zorder=0)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(
        xlabel="masked KL before replay (nats)",
        ylabel="masked KL after (nats)",
    )
    title = f"{panel.name}\nloss of each of {len(panel.losses)} steered samples"
    axes.set_title(literal(title), fontsize=10, loc="left")


def _draw_changes(axes: Axes, panel: RunPanel, most: int) -> None:
    """Draw the fixed and broken answers of each comparison; the axis ends a little above most."""
    ticks, labels, lines = [], [], []
    for row, (name, found) in enumerate(panel.comparisons.items()):
        kinds = (("fixed", found.fixed, GREEN), ("broken", found.broken, RED))
        for place, (kind, count, colour) in enumerate(kinds, 3 * row):
            axes.bar_label(axes.barh(place, count, color=colour), padding=3)
            ticks.append(place)
            labels.append(f"{kind} by {name}")
        lines.append(
            f"{name}: {found.accuracy_a:.1%} → {found.accuracy_b:.1%} right, "
            f"n = {found.n}, p = {found.p_value:.2g}"
        )
    axes.set_yticks(ticks, [literal(label) for label in labels])
    axes.invert_yaxis()
    axes.set(xlabel="answers changed (p: exact McNemar)", xlim=(0, max(most, 1) * 1.12))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(literal("\n".join(lines)), fontsize=10, loc="left")
