"""The pictures of the studies, drawn with matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from replay_core.studies.paired import PairedComparison

BLUE, GREY, GREEN, RED = "#2962a6", "#b8bec6", "#2e8b57", "#c0392b"


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
