"""The settings that the development split chose, on the test split."""

from pathlib import Path

from replay_core.studies import trial
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.bench import Bench
from replay_core.studies.grid import GridResult, masked
from replay_core.studies.trial import TrialResult


def run_chosen(bench: Bench, folder: Path, n: int | None, grid: GridResult) -> TrialResult:
    """Answer the test split with the pair's preset and with the best cell of the dev grid."""
    config, best = bench.config, grid.best
    mask = masked(config).select
    dev = config.changed(
        select=mask, threshold=best.gamma, step_size=best.alpha, thresholds="dynamic"
    )
    arms = [
        baseline(config),
        Arm("the pair's preset", config.changed(method="replay")),
        Arm(f"best on the development split: {best.arm}", dev),
        Arm(f"mask {mask}", config.changed(select=mask)),
        Arm("all visual positions", config.changed(select="all")),
        Arm(f"inject, mask {mask}", config.changed(method="inject", select=mask)),
        Arm("inject, all visual positions", config.changed(method="inject", select="all")),
    ]
    # The first of equal arms stays.
    different = {arm.config.fingerprint(): arm for arm in reversed(arms)}
    kept = [arm for arm in arms if different[arm.config.fingerprint()] is arm]
    return trial.run(bench, folder, "chosen", kept, n)
