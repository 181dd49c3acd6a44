"""Two runs on the same items, compared item by item."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from scipy.stats import binomtest


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


def compare(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> PairedComparison:
    """Return the comparison of two runs' scores (item → 0 or 1).

    Raises:
        ValueError: the runs do not hold the same items, or a score is neither 0 nor 1.
    """
    if a.keys() != b.keys():
        only_a, only_b = len(a.keys() - b.keys()), len(b.keys() - a.keys())
        raise ValueError(
            f"the runs differ in items: {only_a} only in the first, {only_b} only in the second"
        )
    if not a:
        raise ValueError("the runs hold no items")
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
