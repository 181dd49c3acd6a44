"""One figure per study, from its written numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replay_core.studies.figures import PALETTE, canvas, forest, save


def draw_grid(
    path: Path,
    gammas: Sequence[float],
    alphas: Sequence[float],
    cells: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Sequence[float]],
    own_alpha: float,
) -> None:
    """Draw the difference from no replay for every γ and α, and the mean loss curves."""
    figure, axes = canvas(13.0, 4.3, 2, width_ratios=(1.25, 1))
    values = np.array([[cells[f"γ={g:g} α={a:g}"]["difference"] for a in alphas] for g in gammas])
    values = 100 * values
    limit = max(float(np.abs(values).max()), 1.0)
    image = axes[0].imshow(values, cmap="RdYlGn", vmin=-limit, vmax=limit, aspect="auto")
    figure.colorbar(image, ax=axes[0], fraction=0.046, pad=0.03)
    for (row, column), value in np.ndenumerate(values):
        cell = cells[f"γ={gammas[row]:g} α={alphas[column]:g}"]
        told = f"{value:+.1f}\n{cell['fixed']}/{cell['broken']}\np={cell['p']:.2g}"
        axes[0].text(column, row, told, ha="center", va="center", fontsize=8)
    ticks = [f"{a:g}" + ("\n(the pair's)" if a == own_alpha else "") for a in alphas]
    axes[0].set_xticks(range(len(alphas)), ticks)
    axes[0].set_yticks(range(len(gammas)), [f"{g:g}" for g in gammas])
    axes[0].set(
        xlabel="α",
        ylabel="γ",
        title="points gained over no replay; fixed/broken; McNemar p",
    )
    colours = {a: PALETTE[i % len(PALETTE)] for i, a in enumerate(alphas)}
    middle = gammas[len(gammas) // 2]
    for alpha in alphas:
        curve = curves.get(f"γ={middle:g} α={alpha:g}") or []
        axes[1].plot(curve, color=colours[alpha], label=f"α = {alpha:g}")
    axes[1].set(title=f"mean masked KL during the loop (γ = {middle:g})", xlabel="step")
    axes[1].set_yscale("log")
    axes[1].set_ylabel("nats")
    axes[1].legend(frameon=False, fontsize=8)
    save(figure, path)


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
