"""Table 5's question: how much hangs on γ and α, and on a dynamic threshold?"""

from collections.abc import Mapping, Sequence

import numpy as np

from replay_core.config import ReplayConfig
from replay_core.studies.arms import Arm
from replay_core.studies.resampling import Floats

GAMMAS = (0.2, 0.4, 0.7)
ALPHAS = (10.0, 20.0, 40.0)
SCALES = (1 / 3, 1.0, 3.0)


def step_sizes(config: ReplayConfig, published: Sequence[float] = ALPHAS) -> list[float]:
    """Return the published α and the pair's own one with a third and three times of it.

    α does not transfer between image sizes, so the pair's own scale is part of every grid.
    """
    own = [float(f"{config.step_size * scale:.3g}") for scale in SCALES]
    return sorted({*published, *own})


def grid_arms(
    config: ReplayConfig,
    gammas: Sequence[float],
    alphas: Sequence[float],
    thresholds: Mapping[float, Mapping[int, float]],
) -> list[Arm]:
    """Return ``none``, one arm per γ and α, and one per γ with fixed thresholds at the pair's α.

    ``thresholds``: γ → layer → entropy in nats, from :func:`fixed_thresholds` on held-out items.
    """
    plain = {**config.model_dump(), "thresholds": "dynamic"}
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


def fixed_thresholds(entropies: Mapping[int, Sequence[Floats]], gamma: float) -> dict[int, float]:
    """Return layer → the entropy in nats below which as large a share lies as under γ·max.

    ``entropies``: layer → one array of candidate entropies per held-out item. The dynamic mask's
    share is averaged over items; the threshold is that quantile of all candidates together. A
    threshold is positive, as a fixed one must be.
    """
    chosen = {}
    for layer, items in entropies.items():
        share = float(np.mean([(e <= gamma * e.max()).mean() for e in items]))
        quantile = float(np.quantile(np.concatenate(items), share))
        chosen[layer] = max(quantile, 1e-6)
    return chosen


def mean_curve(curves: Sequence[Sequence[float]], steps: int) -> list[float]:
    """Return the mean loss (nats) at each step over samples, in the order of the steps.

    A sample that left the loop early keeps its last loss.
    """
    if not curves:
        return []
    padded = [list(c)[: steps + 1] + [c[-1]] * max(0, steps + 1 - len(c)) for c in curves if c]
    return [float(v) for v in np.mean(padded, axis=0)] if padded else []
