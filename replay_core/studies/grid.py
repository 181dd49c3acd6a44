"""Table 5's question: how much hangs on γ and α, and on a dynamic threshold?"""

from collections.abc import Mapping, Sequence

import numpy as np

from replay_core.config import ReplayConfig
from replay_core.studies.arms import Arm

GAMMAS = (0.2, 0.4, 0.7)
ALPHAS = (10.0, 20.0, 40.0)
SCALES = (1 / 3, 1.0, 3.0)


def step_sizes(config: ReplayConfig, published: Sequence[float] = ALPHAS) -> list[float]:
    """Return the published α and the pair's own one with a third and three times of it.

    α does not transfer between image sizes, so the pair's own scale is part of every grid.
    """
    own = [float(f"{config.step_size * scale:.3g}") for scale in SCALES]
    return sorted({*published, *own})


def masked(config: ReplayConfig) -> ReplayConfig:
    """Return ``config`` with the paper's mask where it selects everything, so that γ matters."""
    select = "low" if config.select == "all" else config.select
    return ReplayConfig(**{**config.model_dump(), "select": select})


def grid_arms(
    config: ReplayConfig,
    gammas: Sequence[float],
    alphas: Sequence[float],
    thresholds: Mapping[float, Mapping[int, float]],
) -> list[Arm]:
    """Return ``none``, one arm per γ and α, and one per γ with fixed thresholds at the pair's α.

    ``thresholds``: γ → layer → entropy in nats, by
    :func:`replay_core.studies.thresholds.find` on held-out samples.
    """
    plain = {**masked(config).model_dump(), "thresholds": "dynamic"}
    arms = [Arm("none", ReplayConfig(**{**plain, "method": "none"}))]
    for gamma in gammas:
        for alpha in alphas:
            changed = {**plain, "method": "replay", "threshold": gamma, "step_size": alpha}
            arms.append(Arm(f"γ={gamma:g} α={alpha:g}", ReplayConfig(**changed)))
        if gamma in thresholds:
            changed = {
                **plain,
                "method": "replay",
                "threshold": gamma,
                "thresholds": dict(thresholds[gamma]),
            }
            name = f"fixed as γ={gamma:g} α={config.step_size:g}"
            arms.append(Arm(name, ReplayConfig(**changed)))
    return arms


def mean_curve(curves: Sequence[Sequence[float]], steps: int) -> list[float]:
    """Return the mean loss (nats) at each step over samples, in the order of the steps.

    A sample that left the loop early keeps its last loss.
    """
    if not curves:
        return []
    padded = [list(c)[: steps + 1] + [c[-1]] * max(0, steps + 1 - len(c)) for c in curves if c]
    return [float(v) for v in np.mean(padded, axis=0)] if padded else []
