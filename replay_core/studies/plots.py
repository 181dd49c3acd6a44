"""One figure per study, from its written numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replay_core.studies.drift import KINDS, Profile
from replay_core.studies.figures import BLUE, GREEN, GREY, PALETTE, RED, canvas, save
from replay_core.studies.stats.resampling import Floats


def draw_drift(path: Path, profiles: Mapping[str, Profile], findings: Mapping[str, Any]) -> None:
    """Draw KL by layer and entropy quantile, and its profile beside the nulls'."""
    policy = profiles["policy"]
    figure, axes = canvas(14.5, 4.2, 4, width_ratios=(1, 1, 1.15, 1.15))
    for kind, name in enumerate(KINDS):
        _heat(figure, axes[kind], policy.kl[:, kind], name)
        one = axes[2 + kind]
        for colour, (arm, found) in zip((BLUE, *PALETTE[3:]), profiles.items(), strict=False):
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.nansum(found.kl[:, kind] * found.count[:, kind], 0)
                shape = mean / found.count[:, kind].sum(0)
                shape = shape / np.nanmean(shape)
            x = np.arange(1, len(shape) + 1)
            line = "-" if arm == "policy" else "--"
            one.plot(x, shape, line, marker="o", markersize=4, label=arm, color=colour)
        ratio = findings[name]["policy"]["low_over_high"]
        shown = "no drift" if ratio is None or not np.isfinite(ratio) else f"{ratio:.2g}"
        one.set(
            title=f"{name}: KL relative to its mean\n(lower half / upper half: {shown})",
            xlabel="base entropy quantile (low → high)",
        )
        one.set_xticks(x)
        one.set_ylim(bottom=0)
        one.axhline(1, color=GREY, linewidth=1, zorder=0)
        one.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Drift of the policy from its base, KL(base ‖ policy), n = {policy.n} prompts")
    save(figure, path)


def _heat(figure: Any, axes: Any, values: Floats, name: str) -> None:
    from matplotlib.colors import LogNorm

    positive = values[np.isfinite(values) & (values > 0)]
    norm = None
    if len(positive):
        low, high = float(positive.min()), float(positive.max())
        norm = LogNorm(max(low, high * 1e-4), high if high > low else low * 1.01, clip=True)
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="magma", norm=norm)
    if norm is not None:
        figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    axes.set(title=f"{name} positions: mean KL (nats)", xlabel="base entropy quantile")
    axes.set_ylabel("after layer")
    axes.set_xticks(range(values.shape[1]), range(1, values.shape[1] + 1))
    if len(values) <= 12:
        axes.set_yticks(range(len(values)))


def draw_perturbation(
    path: Path, ladder: Sequence[Mapping[str, Any]], findings: Mapping[str, Any]
) -> None:
    """Draw drift and log-perplexity over σ, and the within-item correlations."""
    figure, axes = canvas(13.0, 4.0, 3, width_ratios=(1, 1, 1.3))
    sigma = [row["sigma"] for row in ladder]
    for one, names, title in (
        (axes[0], (("low", BLUE), ("high", RED)), "drift at visual positions: KL (nats)"),
        (axes[1], (("right", GREEN), ("wrong", RED)), "log-perplexity per token (nats)"),
    ):
        for name, colour in names:
            values = [np.nan if row[name] is None else row[name] for row in ladder]
            label = f"{name}-entropy" if one is axes[0] else f"{name} answers"
            one.plot(sigma, values, marker="o", markersize=4, color=colour, label=label)
        one.set(title=title, xlabel="σ of the pixel noise (processor units)")
        one.legend(frameon=False, fontsize=8)
    labels, y = [], 0
    for outcome, colour in (("right", GREEN), ("wrong", RED)):
        for name, entry in findings[outcome].items():
            rho, (low, high) = entry["rho"], entry["interval"]
            if np.isfinite(rho):
                axes[2].plot((low, high), (y, y), color=colour, linewidth=2)
                axes[2].plot(rho, y, "o", color=colour, markersize=5)
            labels.append(f"{outcome}: {name} (n = {entry['n']})")
            y += 1
    axes[2].set_yticks(range(y), labels, fontsize=8)
    axes[2].set_ylim(y - 0.5, -0.5)
    axes[2].axvline(0, color=GREY, linewidth=1, zorder=0)
    axes[2].set(
        title="Spearman of drift and log-perplexity\nwithin items, mean and 95% interval",
        xlim=(-1.05, 1.05),
    )
    save(figure, path)


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
    from replay_core.studies.figures import forest

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
