import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar

from replay_core.studies.stats.paired import compare, paired_report


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    a, b = {1: 1.0, 2: 0.0, 3: 1.0}, {1: 0.0, 2: 0.0, 3: 1.0}
    with pytest.raises(ValueError, match=f"first run's score of item 2 is {bad}, not finite"):
        paired_report(a | {2: bad}, b)
    with pytest.raises(ValueError, match=f"second run's score of item 3 is {bad}, not finite"):
        paired_report(a, b | {3: bad})


def planted(n: int, gain: float, seed: int = 0):
    """Two runs of n items; the second turns a share of the wrong answers right by ``gain``."""
    rng = np.random.default_rng(seed)
    a = rng.random(n) < 0.5
    b = a.copy()
    b[rng.choice(n, n // 10, replace=False)] ^= True  # what changes without a reason
    wrong = np.flatnonzero(~b)
    b[rng.choice(wrong, round(gain * n), replace=False)] = True
    return dict(enumerate(a.astype(float))), dict(enumerate(b.astype(float)))


def test_a_planted_gain_is_found_with_its_sign_and_size():
    report = paired_report(*planted(1000, 0.06))
    assert report.p_value < 1e-3
    assert report.permutation_p < 1e-3
    assert report.interval.low > 0
    assert 0.06 in report.interval
    assert report.minimum_detectable < 0.06
    loss = paired_report(*reversed(planted(1000, 0.06)))
    assert loss.interval.high < 0


def test_without_a_gain_none_is_found():
    found = [paired_report(*planted(400, 0.0, seed)) for seed in range(40)]
    assert sum(report.p_value < 0.05 for report in found) <= 5
    assert sum(0 in report.interval for report in found) >= 34


def test_mcnemar_is_statsmodels():
    a, b = planted(300, 0.05)
    report = paired_report(a, b)
    table = [[report.table.both_right, report.table.broken]]
    table += [[report.table.fixed, report.table.both_wrong]]
    assert report.p_value == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_clusters_widen_the_interval_and_set_mcnemar_aside():
    a, b = planted(100, 0.1)
    rotated_a = {(q, r): a[q] for q in a for r in range(4)}
    rotated_b = {(q, r): b[q] for q in b for r in range(4)}
    whole = paired_report(rotated_a, rotated_b, {item: item[0] for item in rotated_a})
    naive = paired_report(rotated_a, rotated_b)
    single = paired_report(a, b)
    assert whole.clusters == 100
    assert naive.p_value < whole.p_value == whole.permutation_p
    assert whole.interval == single.interval
    assert whole.minimum_detectable == pytest.approx(single.minimum_detectable, rel=0.01)


def test_the_minimum_where_nothing_changed_is_that_of_three_units():
    """Ten unchanged clusters say no more than ten unchanged items, however many items they have."""
    rotated = {(q, r): float(q % 2) for q in range(10) for r in range(4)}
    clustered = paired_report(rotated, rotated, {item: item[0] for item in rotated})
    items = {q: float(q % 2) for q in range(10)}
    alone = paired_report(items, items)
    assert clustered.minimum_detectable == pytest.approx(2.8016 * np.sqrt(3) / 10, rel=1e-4)
    assert clustered.minimum_detectable == alone.minimum_detectable


def test_scores_between_0_and_1_have_no_table():
    report = paired_report({1: 0.5, 2: 0.0}, {1: 1.0, 2: 0.25})
    assert report.table is None
    assert report.difference == pytest.approx(0.375)
    assert report.p_value == report.permutation_p
