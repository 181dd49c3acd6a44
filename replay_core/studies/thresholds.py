"""Fixed entropy thresholds, one per layer, that stand for the dynamic ones of other prompts.

Xing et al. 2025 compare the mask ``e <= γ·max e``, whose threshold follows each sample's largest
entropy, with thresholds fixed beforehand, and find both comparable. The one rule for them here, in
``activation-replay thresholds`` and in the grid alike, is :func:`find`: the mean, over held-out
samples, of γ times a sample's largest entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from replay_core.config import Positions
from replay_core.reading import Reading
from replay_core.studies.stats.resampling import Floats

SMALLEST = 1e-6  # nats


@dataclass(frozen=True)
class FixedThresholds:
    """Thresholds found on n samples; arrays are (layers,), entropies in nats.

    ``nats`` is the mean over the samples of γ times their largest entropy, ``deviation`` its
    standard deviation; ``dynamic_share`` and ``fixed_share`` are the shares of all candidates that
    the dynamic and the fixed mask select on these samples.
    """

    nats: Floats
    deviation: Floats
    dynamic_share: Floats
    fixed_share: Floats
    samples: int

    def by_layer(self, layers: Sequence[int]) -> dict[int, float]:
        """Return layer → nats, as ``ReplayConfig.thresholds`` takes them: every one above 0.

        ``layers`` are those of the arrays. A layer that is certain everywhere has the threshold 0,
        and so here the smallest one, which selects the same.
        """
        positive = np.maximum(self.nats, SMALLEST).tolist()
        return dict(zip(layers, positive, strict=True))


def candidates(reading: Reading, positions: Positions) -> Floats:
    """Return the base's entropies (layers, candidates) of one sample."""
    return reading.entropy[:, reading.visual] if positions == "visual" else reading.entropy


def find(entropies: Sequence[Floats], gamma: float) -> FixedThresholds:
    """Return the mean of γ·max entropy over samples whose candidates have these entropies.

    ``entropies`` are (layers, candidates) per sample, in nats; ``gamma`` in (0, 1].

    Raises:
        ValueError: no sample has a candidate.
    """
    samples = [values for values in entropies if values.shape[1]]
    if not samples:
        raise ValueError("no sample has a candidate, so there is nothing to find thresholds from")
    limits = np.stack([gamma * values.max(axis=1) for values in samples])  # (samples, layers)
    nats = limits.mean(axis=0)
    total = sum(values.shape[1] for values in samples)
    dynamic = sum(
        (values <= limit[:, None]).sum(axis=1)
        for values, limit in zip(samples, limits, strict=True)
    )
    fixed = sum((values <= nats[:, None]).sum(axis=1) for values in samples)
    return FixedThresholds(
        nats,
        limits.std(axis=0),
        np.asarray(dynamic) / total,
        np.asarray(fixed) / total,
        len(samples),
    )
