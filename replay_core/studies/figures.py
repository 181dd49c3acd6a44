"""The pictures of the studies, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set(xlabel=xlabel)
    figure.suptitle(title, fontsize=10)
    axes.grid(axis="x", color="#eceff3")
    axes.set_axisbelow(True)
    save(figure, path)


def run_picture(
    path: Path,
    losses: Sequence[tuple[float, float]],
    comparison: PairedComparison,
    names: tuple[str, str],
) -> None:
    """Draw what replay did to the loss of each sample, and to the answers.

    ``losses`` are (before, after) in nats of the samples it was applied to; ``names`` those of the
    two runs.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    before, after = zip(*losses, strict=True) if losses else ((), ())
    left.scatter(before, after, s=10, alpha=0.5, color=BLUE, linewidths=0)
    if losses:
        low, high = min(*before, *after) * 0.8, max(*before, *after) * 1.2
        left.plot((low, high), (low, high), color=GREY, linewidth=1, zorder=0)
        left.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    left.set(
        xlabel="masked KL before replay (nats)",
        ylabel="after",
        title=f"Loss of each steered sample\n({len(losses)} samples)",
    )
    rows = (
        ("both right", comparison.both_right, GREY),
        ("fixed by " + names[1], comparison.fixed, GREEN),
        ("broken by " + names[1], comparison.broken, RED),
        ("both wrong", comparison.both_wrong, GREY),
    )
    labels = [label for label, _, _ in rows]
    bars = right.barh(labels, [n for _, n, _ in rows], color=[colour for _, _, colour in rows])
    right.bar_label(bars, padding=3)
    right.invert_yaxis()
    right.set(
        xlabel="items",
        title=f"Right answers: {comparison.accuracy_a:.1%} → {comparison.accuracy_b:.1%}\n"
        f"(n = {comparison.n}, exact McNemar p = {comparison.p_value:.2g})",
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
