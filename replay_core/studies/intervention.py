"""Does it help to put the base's activations in place of the policy's, and which? See Table 1.

``low`` beats ``high`` only where it also does with equally many positions: the ``matched_`` arms
take, per layer, the m lowest, the m highest or m random ones, m the smaller of the two masks.
"""

from collections.abc import Sequence
from pathlib import Path

from replay_core.config import ReplayConfig
from replay_core.studies import trial
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.bench import Bench
from replay_core.studies.trial import TrialResult

SELECTS = ("low", "high", "all", "matched_low", "matched_high", "matched_random")
POSITIONS = ("visual", "input")
BOUNDARIES = ("aligned", "reference")


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    positions: Sequence[str] = POSITIONS,
    boundaries: Sequence[str] = BOUNDARIES,
    metric: str | None = None,
    seed: int = 0,
) -> TrialResult:
    """Answer ``n`` documents with and without injection and write the ``intervention`` files."""
    arms = arms_of(bench.config, positions=positions, boundaries=boundaries)
    return trial.run(bench, folder, "intervention", arms, n, metric=metric, seed=seed)


def arms_of(
    config: ReplayConfig,
    *,
    positions: Sequence[str] = POSITIONS,
    boundaries: Sequence[str] = BOUNDARIES,
) -> list[Arm]:
    """Return the baseline and one arm per reading, candidate positions and selection."""
    arms = [baseline(config)]
    for boundary in boundaries:
        for where in positions:
            for select in SELECTS:
                changes = {"boundary": boundary, "positions": where, "select": select}
                changed = config.changed(method="inject", **changes)
                arms.append(Arm(f"{boundary} {where} {select}", changed))
    return arms
