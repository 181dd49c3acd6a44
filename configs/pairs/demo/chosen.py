"""The settings that the development split chose, on the test split."""

from pathlib import Path
from typing import Any

from replay_adapters.studies.answered import Findings, arms_study
from replay_core import ReplayConfig
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench
from replay_core.studies.grid import masked


def best_of(grid: Findings) -> str:
    """Return the grid's cell with the largest gain; in a tie the one nearest the pair's preset.

    Cells with fixed thresholds do not take part: their thresholds are of other documents of
    the development split, and hold for no other one.
    """
    gamma, alpha = grid["own_threshold"], grid["own_step_size"]
    cells = {name: cell for name, cell in grid["cells"].items() if not name.startswith("fixed")}

    def rank(name: str) -> tuple[float, float, float]:
        its = _values(name)
        return cells[name]["difference"], -abs(its[1] - alpha), -abs(its[0] - gamma)

    return max(cells, key=rank)


def _values(name: str) -> tuple[float, float]:
    # Until a grid's cells carry gamma and alpha themselves: read them off the cell's label.
    gamma, alpha = (float(part.split("=")[1]) for part in name.split())
    return gamma, alpha


def run_chosen(source: Bench, folder: Path, n: int | None, grid: Findings) -> Findings:
    """Answer the test split with the pair's preset and with the best cell of the dev grid."""
    config = source.config
    best = best_of(grid)
    gamma, alpha = _values(best)
    plain: dict[str, Any] = config.model_dump()

    def arm(name: str, **changes: Any) -> Arm:
        return Arm(name, ReplayConfig(**{**plain, **changes}))

    mask = masked(config).select
    dev = {"select": mask, "threshold": gamma, "step_size": alpha, "thresholds": "dynamic"}
    arms = [
        arm("none", method="none"),
        arm("the pair's preset", method="replay"),
        arm(f"best on the development split: {best}", **dev),
        arm(f"mask {mask}", select=mask),
        arm("all visual positions", select="all"),
        arm(f"inject, mask {mask}", method="inject", select=mask),
        arm("inject, all visual positions", method="inject", select="all"),
    ]
    # The first of equal arms stays.
    different = {arm.config.fingerprint(): arm for arm in reversed(arms)}
    kept = [arm for arm in arms if different[arm.config.fingerprint()] is arm]
    return arms_study(source, folder, "chosen", kept, n, None, 0)
