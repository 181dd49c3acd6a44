"""Rank correlations within items, averaged over items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from replay_core.studies.stats.resampling import Interval, mean_interval

OUTCOMES = ("right", "wrong")


@dataclass(frozen=True)
class Point:
    """One item under one picture; None where an item has nothing to take the mean of.

    ``low`` and ``high`` are the mean KL (nats) at low- and at high-entropy visual positions;
    ``right`` and ``wrong`` the log-perplexity of such answers: the mean negative log-likelihood per
    token, in nats.
    """

    sigma: float
    draw: int
    low: float | None
    high: float | None
    right: float | None
    wrong: float | None


def spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike | None = None) -> float:
    """Return Spearman's rank correlation, or the partial one with ``given`` held fixed.

    ``(r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²))`` of the ranks. NaN where a variable does
    not vary, or is wholly explained by ``given``. Ranks do not take out all of a strong common
    cause: over 12 points of two variables that share only ``given``, about 0.06 remains where it
    correlates with each at 0.8, about 0.03 at 0.6.
    """
    ranks = [rankdata(values) for values in ((x, y) if given is None else (x, y, given))]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    r = np.corrcoef(ranks)
    if given is None:
        return float(r[0, 1])
    left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(left)) if left > 1e-12 else float("nan")


@dataclass(frozen=True)
class Correlation:
    """A within-item rank correlation, averaged over the items that have one."""

    n: int
    rho: float
    interval: Interval


def correlate(
    items: Sequence[Sequence[Point]],
    outcome: str,
    given: str | None = None,
    *,
    drift: str = "low",
    seed: int = 0,
) -> Correlation:
    """Return the mean over items of Spearman(drift, log-perplexity), with an item bootstrap.

    ``drift``, ``outcome`` and ``given`` name fields of :class:`Point`, of which ``items`` hold one
    list each. Points without a value are left out, and so are items with fewer than four points or
    no variation.
    """
    values = []
    names = [drift, outcome, *([given] if given else [])]
    for points in items:
        rows = [[getattr(point, name) for name in names] for point in points]
        whole = [row for row in rows if None not in row]
        if len(whole) >= 4:
            values.append(spearman(*zip(*whole, strict=True)))
    kept = np.array([value for value in values if np.isfinite(value)])
    if len(kept) == 0:
        return Correlation(0, float("nan"), Interval(float("nan"), float("nan")))
    return Correlation(len(kept), float(kept.mean()), mean_interval(kept, seed=seed))


def ladder(items: Sequence[Sequence[Point]]) -> list[dict[str, Any]]:
    """Return one row per σ: means over items of drift and log-perplexities, where there are any."""
    whole = [point for points in items for point in points]
    rows = []
    for sigma in sorted({point.sigma for point in whole}):
        mine = [point for point in whole if point.sigma == sigma]
        row: dict[str, Any] = {"sigma": sigma, "points": len(mine)}
        for name in ("low", "high", *OUTCOMES):
            values = [getattr(point, name) for point in mine]
            found = [value for value in values if value is not None]
            row[name] = float(np.mean(found)) if found else None
        rows.append(row)
    return rows
