"""Table 1's question: the base's activations put in place of the policy's, where and with what?"""

from collections.abc import Sequence

from replay_core.config import ReplayConfig
from replay_core.studies.arms import Arm

SELECTS = ("low", "high", "all", "matched_low", "matched_high", "matched_random")
POSITIONS = ("visual", "input")
BOUNDARIES = ("aligned", "reference")


def intervention_arms(
    config: ReplayConfig,
    *,
    selects: Sequence[str] = SELECTS,
    positions: Sequence[str] = POSITIONS,
    boundaries: Sequence[str] = BOUNDARIES,
) -> list[Arm]:
    """Return ``none`` and one injection arm per reading, candidate positions and selection.

    ``low`` beats ``high`` only where it also does with equally many positions: the ``matched_``
    arms take, per layer, the m lowest, highest or m random ones, m the smaller of the two masks.
    """
    arms = [Arm("none", _with(config, method="none"))]
    for boundary in boundaries:
        for where in positions:
            for select in selects:
                name = f"{boundary} {where} {select}"
                changes = {"boundary": boundary, "positions": where, "select": select}
                arms.append(Arm(name, _with(config, method="inject", **changes)))
    return arms


def _with(config: ReplayConfig, **changes: object) -> ReplayConfig:
    """Return ``config`` with changes, validated."""
    return ReplayConfig(**{**config.model_dump(), **changes})
