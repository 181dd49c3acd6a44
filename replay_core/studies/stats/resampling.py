"""Intervals, permutation tests and what a sample size could have shown; items are resampled."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DRAWS = 4000
# Two-sided 5% and 80% power under a normal approximation: z(.975) + z(.8).
_POWER = 1.959964 + 0.841621
_EXACT_UNITS = 14


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval at ``level``."""

    low: float
    high: float
    level: float = 0.95

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def ends(self) -> list[float]:
        """Both ends, for files."""
        return [self.low, self.high]

    def __str__(self) -> str:
        return f"[{self.low:+.3g}, {self.high:+.3g}]"


def grouped(values: ArrayLike, clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Return (sums, sizes) of ``values`` (items, …) by cluster; every item its own where None.

    ``sizes`` is (units,). Units stand in the order in which their clusters first appear.
    """
    array = np.asarray(values, dtype=np.float64)
    if clusters is None:
        return array, np.ones(len(array))
    if len(clusters) != len(array):
        raise ValueError(f"{len(array)} values came with {len(clusters)} clusters")
    number = {cluster: unit for unit, cluster in enumerate(dict.fromkeys(clusters))}
    owner = np.array([number[cluster] for cluster in clusters])
    sums = np.zeros((len(number), *array.shape[1:]))
    np.add.at(sums, owner, array)
    return sums, np.bincount(owner).astype(np.float64)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0, draws: int = DRAWS
) -> Floats:
    """Return ``draws`` resamples of Σ numerators / Σ denominators, (draws, …).

    Both are (units, …) of the same shape; units are drawn with replacement. A mean is the ratio
    with sizes below. NaN where a resample's denominator is 0.
    """
    above = np.asarray(numerators, dtype=np.float64)
    below = np.asarray(denominators, dtype=np.float64)
    units = len(above)
    flat = np.stack([above.reshape(units, -1), below.reshape(units, -1)])
    rng = np.random.default_rng(seed)
    resampled = []
    block = max(1, 2**22 // max(units, 1))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = rng.integers(0, units, (size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units)
        weights = counts.reshape(size, units).astype(np.float64)
        resampled.append(weights @ flat)  # (2, size, cells)
    totals = np.concatenate(resampled, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(totals[1] == 0, np.nan, totals[0] / totals[1])
    return ratio.reshape(draws, *above.shape[1:])


def percentile(samples: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the lower and upper ends, over axis 0, of the central ``level`` of resamples."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """Return the bootstrap interval of the mean of ``values`` (items,), by whole clusters."""
    sums, sizes = grouped(values, clusters)
    low, high = percentile(bootstrap_ratio(sums, sizes, seed=seed, draws=draws), level)
    return Interval(float(low), float(high), level)


def sign_flip_p(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    draws: int = 20_000,
) -> float:
    """Return the two-sided p of a paired permutation test that ``differences`` (items,) are 0.

    The two runs' labels are swapped in whole clusters. All swaps are enumerated for up to 14 units
    that differ at all, else ``draws`` are drawn and the observed one is counted among them.
    """
    sums, _ = grouped(differences, clusters)
    moved = sums[sums != 0]
    if len(moved) == 0:
        return 1.0
    observed = abs(moved.sum())
    slack = 1e-9 * np.abs(moved).sum()
    if len(moved) <= _EXACT_UNITS:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ moved) >= observed - slack))
    rng = np.random.default_rng(seed)
    extreme, done = 0, 0
    while done < draws:
        size = min(2000, draws - done)
        signs = rng.integers(0, 2, (size, len(moved))) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= observed - slack).sum())
        done += size
    return (extreme + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the given order (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def minimum_detectable(differences: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the true mean difference that this design would have found with 80% power.

    ``2.80 * standard error`` (two-sided 5%, normal approximation), with the observed spread of
    ``differences`` (items,), clustered where ``clusters`` are given. Where (almost) nothing changed
    the spread is at least that of three changed units (items, or whole clusters), which is what as
    many unchanged ones leave possible at 95%.
    """
    sums, sizes = grouped(differences, clusters)
    items, units = sizes.sum(), len(sums)
    residual = sums - sums.sum() / items * sizes
    correction = units / max(units - 1, 1)
    variance = correction * float((residual**2).sum()) / items**2
    return _POWER * float(np.sqrt(max(variance, 3 / units**2)))
