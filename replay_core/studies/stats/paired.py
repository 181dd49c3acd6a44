"""Two runs on the same items, compared item by item."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from replay_core.studies.stats.resampling import (
    Interval,
    mean_interval,
    minimum_detectable,
    sign_flip_p,
)


@dataclass(frozen=True)
class PairedComparison:
    """A 2×2 table of right and wrong answers; ``a`` is the baseline."""

    both_right: int
    fixed: int
    """Wrong in a, right in b."""
    broken: int
    """Right in a, wrong in b."""
    both_wrong: int

    @property
    def n(self) -> int:
        """The number of items."""
        return self.both_right + self.fixed + self.broken + self.both_wrong

    @property
    def accuracy_a(self) -> float:
        """Share of right answers in a."""
        return (self.both_right + self.broken) / self.n

    @property
    def accuracy_b(self) -> float:
        """Share of right answers in b."""
        return (self.both_right + self.fixed) / self.n

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test: fixed and broken items as tosses of a fair coin."""
        changed = self.fixed + self.broken
        return float(binomtest(self.fixed, changed, 0.5).pvalue) if changed else 1.0


@dataclass(frozen=True)
class PairedReport:
    """All that two runs on the same items say about their difference; ``a`` is the baseline."""

    n: int
    score_a: float
    score_b: float
    difference: float
    """Mean of b - a."""
    interval: Interval
    """Bootstrap interval of the difference, over items or whole clusters."""
    permutation_p: float
    """Two-sided paired permutation test, labels swapped by item or whole cluster."""
    minimum_detectable: float
    """The true difference that this comparison would have found with 80% power."""
    table: PairedComparison | None
    """The 2×2 table; None where scores lie between 0 and 1."""
    clusters: int | None = None
    """How many clusters there are; None where items are independent."""

    @property
    def p_value(self) -> float:
        """Exact McNemar for independent right-or-wrong items, else the permutation test."""
        exact = self.table is not None and self.clusters is None
        return self.table.p_value if exact and self.table else self.permutation_p


def compare(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> PairedComparison:
    """Return the comparison of two runs' scores (item → 0 or 1).

    Raises:
        ValueError: the runs do not hold the same items, or a score is neither 0 nor 1.
    """
    _check_items(a, b)
    odd = [score for run in (a, b) for score in run.values() if score not in (0, 1)]
    if odd:
        raise ValueError(f"scores must be 0 or 1 for an exact McNemar test, found {odd[0]}")
    pairs = [(bool(a[item]), bool(b[item])) for item in a]
    return PairedComparison(
        both_right=pairs.count((True, True)),
        fixed=pairs.count((False, True)),
        broken=pairs.count((True, False)),
        both_wrong=pairs.count((False, False)),
    )


def paired_report(
    a: Mapping[Hashable, float],
    b: Mapping[Hashable, float],
    clusters: Mapping[Hashable, Hashable] | None = None,
    *,
    seed: int = 0,
) -> PairedReport:
    """Return the full comparison of two runs' scores (item → score).

    ``clusters`` (item → cluster) are items that belong together, as the four rotations of one
    question of HR-Bench; tests and intervals then treat each cluster as one unit.

    Raises:
        ValueError: the runs do not hold the same items, or a score is not finite.
    """
    _check_items(a, b)
    items = list(a)
    ours = np.array([float(a[item]) for item in items])
    theirs = np.array([float(b[item]) for item in items])
    difference = theirs - ours
    binary = bool(np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all())
    groups = None if clusters is None else [clusters[item] for item in items]
    return PairedReport(
        n=len(items),
        score_a=float(ours.mean()),
        score_b=float(theirs.mean()),
        difference=float(difference.mean()),
        interval=mean_interval(difference, groups, seed=seed),
        permutation_p=sign_flip_p(difference, groups, seed=seed),
        minimum_detectable=minimum_detectable(difference, groups),
        table=compare(a, b) if binary else None,
        clusters=None if groups is None else len(set(groups)),
    )


def _check_items(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> None:
    if a.keys() != b.keys():
        only_a, only_b = len(a.keys() - b.keys()), len(b.keys() - a.keys())
        raise ValueError(
            f"the runs differ in items: {only_a} only in the first, {only_b} only in the second"
        )
    if not a:
        raise ValueError("the runs hold no items")
    for name, run in (("first", a), ("second", b)):
        for item, score in run.items():
            if not math.isfinite(score):
                raise ValueError(f"the {name} run's score of item {item} is {score}, not finite")
