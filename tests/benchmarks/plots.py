"""Draw the results against the number of visual tokens.

    python -m tests.benchmarks.plots [--results FOLDER]

Reads ``cpu.csv`` and ``gpu.csv``, writes ``cpu.png`` and ``gpu.png`` beside them.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from replay_core.studies.figures import BLUE, GREEN, GREY, PALETTE, RED, canvas, save
from tests.benchmarks.timing import RESULTS

# Column → what its panel says, and G's target at ρ .5 and 1, None where there is none.
RATIOS = {
    "release_over_ours_flops": ("operations: release's order / ours", None),
    "release_over_ours_cpu_s": ("seconds: release's order / ours", {0.5: 5, 1.0: 7}),
    "loop_peak_over_release": ("peak memory: our loop / release's order", {0.5: 0.3, 1.0: 0.3}),
}
SECONDS = {
    "decode_512_s": ("decoding 512 tokens", PALETTE[4]),
    "release_order_s": ("release's order", RED),
    "loop_s": ("our loop", BLUE),
    "base_s": ("base's pass", GREEN),
}


def main(
    results: Annotated[Path, typer.Option(help="the folder of the CSVs")] = RESULTS,
) -> None:
    """Draw both pictures."""
    draw_cpu(pd.read_csv(results / "cpu.csv"), results / "cpu.png")
    draw_gpu(pd.read_csv(results / "gpu.csv"), results / "gpu.png")


def draw_cpu(rows: pd.DataFrame, path: Path) -> None:
    """Draw a panel for each ratio, with a line for each ρ and its target."""
    figure, panels = canvas(9.6, 3.0, columns=len(RATIOS))
    rows = rows.assign(share=rows["masked"].round(1))
    for axes, (column, (title, targets)) in zip(panels, RATIOS.items(), strict=True):
        for colour, (share, mine) in zip((BLUE, GREEN), rows.groupby("share"), strict=True):
            axes.plot(
                mine["visual_tokens"], mine[column], "o-", color=colour, label=f"ρ = {share:g}"
            )
            if targets is not None:
                axes.axhline(targets[share], color=colour, linewidth=1, linestyle="--", zorder=0)
        axes.set_title(title, fontsize=10, loc="left")
        _along_tokens(axes, rows["visual_tokens"])
        axes.set_ylim(0, 1.1 * rows[column].max())
    panels[0].legend(frameon=False, loc="lower right")
    place = rows.iloc[0]
    figure.suptitle(
        f"hidden 512, 12 layers, {place.layers} matched, {place.steps} steps, {place['dtype']}, "
        f"one thread of {place.device} ({place.commit}); dashed: the target",
        fontsize=9,
        color="#6b7280",
    )
    save(figure, path)


def draw_gpu(rows: pd.DataFrame, path: Path) -> None:
    """Draw the seconds of each part of a sample on the accelerator, those of 25 steps only."""
    rows = rows[rows["steps"] == rows["steps"].max()]
    rows = rows.assign(
        decode_512_s=rows["decode_s"] * 512 / rows["decoded_tokens"],
        release_order_s=pd.to_numeric(rows["release_order_s"]),
    )
    figure, (axes,) = canvas(7.6, 3.8)
    for column, (label, colour) in SECONDS.items():
        axes.plot(rows["visual_tokens"], rows[column], "o-", color=colour, label=label)
    axes.set(yscale="log", ylabel="seconds")
    _along_tokens(axes, rows["visual_tokens"])
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    place = rows.iloc[0]
    axes.set_title(
        f"Qwen2.5-VL-7B's shape, {place.layers} layers matched, {place.steps} steps, ρ = "
        f"{place.masked}\n{place['dtype']}, {place.device} ({place.commit})",
        fontsize=9,
        loc="left",
    )
    save(figure, path)


def _along_tokens(axes: Axes, tokens: pd.Series) -> None:
    """Let the x-axis be N, logarithmic, with a tick at each N that was measured."""
    axes.set(xscale="log", xlabel="visual tokens N")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(tokens))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(axis="y", color=GREY, alpha=0.4)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    typer.run(main)
