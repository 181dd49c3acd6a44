"""How much hangs on γ and α, and on a threshold that follows each sample? See Table 5.

α does not transfer between image sizes, so the pair's own scale is part of every grid. Settings are
to be chosen on a development split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from replay_core.config import ReplayConfig
from replay_core.errors import UsageError
from replay_core.studies.answers import by_arm, run_arms
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.bench import Bench
from replay_core.studies.figures import PALETTE, canvas, save
from replay_core.studies.report import write_study
from replay_core.studies.result import Number, Result, shown
from replay_core.studies.thresholds import dynamic_layers, found_on
from replay_core.studies.trial import ArmResult, compared, settings_of, told

GAMMAS = (0.2, 0.4, 0.7)
ALPHAS = (10.0, 20.0, 40.0)
SCALES = (1 / 3, 1.0, 3.0)


class Cell(ArmResult):
    """One γ and α against the baseline."""

    gamma: float = Field(description="γ; with fixed thresholds, the one they stand for")
    alpha: float = Field(description="α")
    thresholds: Literal["dynamic", "fixed"] = Field(description="of each sample, or per layer")


class GridResult(Result):
    """Every cell of the grid against the baseline."""

    cells: dict[str, Cell] = Field(description="arm → its comparison")
    curves: dict[str, tuple[Number, ...]] = Field(
        description="arm → mean masked KL at every step over samples, in nats"
    )
    thresholds: dict[float, dict[int, float]] = Field(
        description="γ → layer → the fixed entropy that stands for it, in nats"
    )
    fixed_thresholds_from: str = Field(description="what the fixed thresholds were found on")
    own_step_size: float = Field(description="α of the bench's own settings")
    own_threshold: float = Field(description="γ of the bench's own settings")

    @property
    def best(self) -> Cell:
        """The dynamic cell with the largest gain; in a tie the one nearest the own settings.

        Cells with fixed thresholds do not take part: theirs are of other documents of the split,
        and hold for no other one.
        """
        return max(
            (cell for cell in self.cells.values() if cell.thresholds == "dynamic"),
            key=lambda cell: (
                cell.difference,
                -abs(cell.alpha - self.own_step_size),
                -abs(cell.gamma - self.own_threshold),
            ),
        )

    def at(self, gamma: float, alpha: float) -> Cell:
        """Return the dynamic cell of a γ and an α."""
        return self.cells[_name(gamma, alpha)]

    def told(self) -> str:
        """Return the cells as a table, for people."""
        return told(self.cells.values())


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    gammas: Sequence[float] = GAMMAS,
    alphas: Sequence[float] | None = None,
    held_out: int = 50,
    metric: str | None = None,
    seed: int = 0,
) -> GridResult:
    """Answer ``n`` documents at every γ and α, and with fixed thresholds; write the ``grid`` files.

    The thresholds are those that the thresholds study finds on the ``held_out`` documents behind
    the first ``n``; where a task has none left there are no arms with them, and the result says so.
    ``alphas`` are the published ones and the pair's own scale where None.
    """
    documents, config = bench.documents(n), bench.config
    alphas = step_sizes(config) if alphas is None else sorted(alphas)
    others = _behind(bench, documents, held_out)
    thresholds: dict[float, dict[int, float]] = {}
    if others:
        found = zip(gammas, found_on(bench, others, gammas), strict=True)
        thresholds = {gamma: its.by_layer(dynamic_layers(bench)) for gamma, its in found}
    arms = arms_of(config, gammas, alphas, thresholds)
    answers = run_arms(bench, folder, arms, documents, metric=metric, label="grid")
    settled = {arm.name: arm.config for arm in arms}
    result = GridResult(
        cells={row.arm: _cell(row, settled[row.arm]) for row in compared(answers, seed)},
        curves={
            name: tuple(mean_curve([one.losses for one in mine], config.steps))
            for name, mine in by_arm(answers).items()
        },
        thresholds=thresholds,
        fixed_thresholds_from=(
            f"the mean of γ·max entropy over {len(others)} held-out documents"
            if others
            else "none left"
        ),
        own_step_size=config.step_size,
        own_threshold=config.threshold,
    )
    asked = {"gammas": list(gammas), "alphas": list(alphas), "held_out": held_out}
    write_study(
        folder,
        "grid",
        settings=settings_of(bench, arms, len(documents), metric, **asked),
        table=[cell.findings() for cell in result.cells.values()],
        findings=result.findings(),
        seed=seed,
    )
    draw(folder / "grid.png", gammas, alphas, result)
    return result


def step_sizes(config: ReplayConfig, published: Sequence[float] = ALPHAS) -> list[float]:
    """Return the published α and the pair's own one with a third and three times of it."""
    own = [float(f"{config.step_size * scale:.3g}") for scale in SCALES]
    return sorted({*published, *own})


def masked(config: ReplayConfig) -> ReplayConfig:
    """Return ``config`` with the paper's mask where it selects everything, so that γ matters."""
    return config.changed(select="low") if config.select == "all" else config


def arms_of(
    config: ReplayConfig,
    gammas: Sequence[float],
    alphas: Sequence[float],
    thresholds: Mapping[float, Mapping[int, float]],
) -> list[Arm]:
    """Return the baseline, an arm per γ and α, and one per γ with fixed thresholds at the own α.

    ``thresholds``: γ → layer → entropy in nats, found on held-out samples.
    """
    plain = masked(config).changed(method="replay", thresholds="dynamic")
    arms = [baseline(plain)]
    for gamma in gammas:
        for alpha in alphas:
            cell = plain.changed(threshold=gamma, step_size=alpha)
            arms.append(Arm(_name(gamma, alpha), cell))
        if gamma in thresholds:
            cell = plain.changed(threshold=gamma, thresholds=dict(thresholds[gamma]))
            arms.append(Arm(f"fixed as {_name(gamma, config.step_size)}", cell))
    return arms


def _name(gamma: float, alpha: float) -> str:
    return f"γ={gamma:g} α={alpha:g}"


def _cell(row: ArmResult, config: ReplayConfig) -> Cell:
    kind = "dynamic" if config.thresholds == "dynamic" else "fixed"
    place = {"gamma": config.threshold, "alpha": config.step_size, "thresholds": kind}
    return Cell.model_validate({**row.findings(), **place})


def _behind(bench: Bench, documents: Sequence[int], held_out: int) -> list[int]:
    """Return up to ``held_out`` documents behind the given ones; [] where there are no more."""
    if held_out <= 0:
        return []
    try:
        return bench.documents(held_out, offset=max(documents) + 1)
    except UsageError:
        return []


def mean_curve(curves: Sequence[Sequence[float]], steps: int) -> list[float]:
    """Return the mean loss (nats) at each step over samples, in the order of the steps.

    A sample that left the loop early keeps its last loss.
    """
    padded = [list(c)[: steps + 1] + [c[-1]] * max(0, steps + 1 - len(c)) for c in curves if c]
    return [float(v) for v in np.mean(padded, axis=0)] if padded else []


def draw(path: Path, gammas: Sequence[float], alphas: Sequence[float], result: GridResult) -> None:
    """Draw the difference from the baseline for every γ and α, and the mean loss curves."""
    figure, axes = canvas(13.0, 4.3, 2, width_ratios=(1.25, 1))
    values = np.array([[100 * result.at(g, a).difference for a in alphas] for g in gammas])
    limit = max(float(np.abs(values).max()), 1.0)
    image = axes[0].imshow(values, cmap="RdYlGn", vmin=-limit, vmax=limit, aspect="auto")
    figure.colorbar(image, ax=axes[0], fraction=0.046, pad=0.03)
    for (row, column), value in np.ndenumerate(values):
        cell = result.at(gammas[row], alphas[column])
        text = f"{value:+.1f}\n{cell.fixed}/{cell.broken}\np={cell.p:.2g}"
        axes[0].text(column, row, text, ha="center", va="center", fontsize=8)
    own = result.own_step_size
    ticks = [f"{a:g}" + ("\n(the pair's)" if a == own else "") for a in alphas]
    axes[0].set_xticks(range(len(alphas)), ticks)
    axes[0].set_yticks(range(len(gammas)), [f"{g:g}" for g in gammas])
    axes[0].set(
        xlabel="α",
        ylabel="γ",
        title="points gained over no replay; fixed/broken; McNemar p",
    )
    middle = gammas[len(gammas) // 2]
    for number, alpha in enumerate(alphas):
        colour, curve = PALETTE[number % len(PALETTE)], result.curves[_name(middle, alpha)]
        axes[1].plot([shown(loss) for loss in curve], color=colour, label=f"α = {alpha:g}")
    axes[1].set(title=f"mean masked KL during the loop (γ = {middle:g})", xlabel="step")
    axes[1].set_yscale("log")
    axes[1].set_ylabel("nats")
    axes[1].legend(frameon=False, fontsize=8)
    save(figure, path)
