"""Pass@K from logged samples: the share of items that at least one of K answers solves."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from replay_core.errors import UsageError
from replay_core.studies.stats.resampling import Floats, bootstrap_ratio, percentile

Samples = Mapping[Hashable, Sequence[float]]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of Pass@k from ``correct`` right answers of ``n``.

    ``1 - C(n - c, k) / C(n, k)`` (Chen et al. 2021), as a product, so that nothing overflows.

    Raises:
        ValueError: k is not between 1 and n, or c is not between 0 and n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(
            f"Pass@{k} needs 1 <= k <= n and 0 <= c <= n; found n = {n}, c = {correct}"
        )
    if n - correct < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - correct + 1, n + 1)))


@dataclass(frozen=True)
class Curve:
    """Pass@K of one arm, with item bootstrap bands; all arrays are (k,)."""

    n: int
    """Number of items."""
    samples: int
    """Answers per item, the smallest over items."""
    ks: tuple[int, ...]
    estimate: Floats
    low: Floats
    high: Floats
    by_item: Floats
    """(items, k), in the order of the arm's items."""


def curve(samples: Samples, ks: Sequence[int] | None = None, *, seed: int = 0) -> Curve:
    """Return Pass@K of item → 0 or 1 for each of its answers.

    ``ks`` is 1 … 16, as far as every item has as many answers, where None.

    Raises:
        ValueError: there are no items, or a k exceeds an item's number of answers.
        UsageError: a score is neither 0 nor 1.
    """
    if not samples:
        raise ValueError("there are no items")
    odd = [score for row in samples.values() for score in row if score not in (0, 1)]
    if odd:
        raise UsageError(
            f"Pass@K counts right answers, so scores must be 0 or 1; found {odd[0]:g} (give a "
            "metric that is right or wrong)"
        )
    fewest = min(len(row) for row in samples.values())
    ks = tuple(range(1, min(16, fewest) + 1)) if ks is None else tuple(ks)
    by_item = np.array(
        [[pass_at_k(len(row), round(sum(row)), k) for k in ks] for row in samples.values()]
    )
    low, high = percentile(bootstrap_ratio(by_item, np.ones_like(by_item), seed=seed))
    return Curve(len(by_item), fewest, ks, by_item.mean(0), low, high, by_item)


def difference(a: Samples, b: Samples, *, seed: int = 0) -> Curve:
    """Return Pass@K of ``b`` minus that of ``a``, item by item, with bands of the difference.

    Raises:
        ValueError: the arms do not hold the same items.
    """
    if a.keys() != b.keys():
        raise ValueError(
            f"the arms differ in items: {len(a.keys() - b.keys())} only in the first, "
            f"{len(b.keys() - a.keys())} only in the second"
        )
    fewest = min(len(row) for arm in (a, b) for row in arm.values())
    ks = range(1, min(16, fewest) + 1)
    ours, theirs = curve(a, ks, seed=seed), curve({item: b[item] for item in a}, ks, seed=seed)
    gap = theirs.by_item - ours.by_item
    low, high = percentile(bootstrap_ratio(gap, np.ones_like(gap), seed=seed))
    return Curve(len(gap), fewest, tuple(ks), gap.mean(0), low, high, gap)
