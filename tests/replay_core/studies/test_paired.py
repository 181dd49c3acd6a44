import pytest
from scipy.stats import binom

from replay_core.studies.paired import compare


def runs(both_right: int, fixed: int, broken: int, both_wrong: int):
    rows = [(1, 1)] * both_right + [(0, 1)] * fixed + [(1, 0)] * broken + [(0, 0)] * both_wrong
    a, b = zip(*rows, strict=True)
    return dict(enumerate(a)), dict(enumerate(b))


def test_the_table_counts_every_item_once():
    result = compare(*runs(5, 3, 1, 2))
    assert (result.both_right, result.fixed, result.broken, result.both_wrong) == (5, 3, 1, 2)
    assert result.n == 11
    assert result.accuracy_a == pytest.approx(6 / 11)
    assert result.accuracy_b == pytest.approx(8 / 11)


@pytest.mark.parametrize(("fixed", "broken"), [(40, 7), (7, 7), (0, 1), (3, 12)])
def test_p_is_the_exact_two_sided_binomial(fixed, broken):
    changed = fixed + broken
    tail = 2 * binom.cdf(min(fixed, broken), changed, 0.5)
    result = compare(*runs(2, fixed, broken, 2))
    assert result.p_value == pytest.approx(min(1.0, tail))


def test_p_is_one_when_nothing_changed():
    assert compare(*runs(4, 0, 0, 4)).p_value == 1.0


def test_swapping_the_runs_swaps_fixed_and_broken():
    a, b = runs(5, 3, 1, 2)
    assert compare(b, a).fixed == compare(a, b).broken


def test_runs_of_other_items_are_refused():
    with pytest.raises(ValueError, match="1 only in the first, 0 only in the second"):
        compare({1: 1, 2: 0}, {1: 1})
    with pytest.raises(ValueError, match="no items"):
        compare({}, {})
    with pytest.raises(ValueError, match=r"0 or 1 .* found 0\.5"):
        compare({1: 0.5}, {1: 1})
