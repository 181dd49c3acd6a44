"""Intervals, permutation tests, Holm and power against scipy and statsmodels."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from replay_core.studies.stats.resampling import (
    bootstrap_ratio,
    grouped,
    holm,
    mean_interval,
    minimum_detectable,
    sign_flip_p,
)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).normal(0.3, 1.0, 120)


def test_the_interval_is_scipys_percentile_bootstrap(values):
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = mean_interval(values, draws=20_000)
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_intervals_cover_a_planted_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    covered = [0.2 in mean_interval(rng.normal(0.2, 1, 60), draws=600) for _ in range(200)]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_a_cluster_is_one_unit():
    values, clusters = np.repeat([0.0, 1.0, 1.0, 0.0, 1.0, 0.0], 4), list(np.repeat(range(6), 4))
    whole, items = mean_interval(values, clusters), mean_interval(values)
    assert whole.high - whole.low > 1.5 * (items.high - items.low)
    # Four equal items a cluster say no more than one.
    alone = mean_interval(values[::4])
    assert (whole.low, whole.high) == (alone.low, alone.high)
    assert sign_flip_p(values, clusters) == sign_flip_p(values[::4])
    sums, sizes = grouped([1.0, 2.0, 3.0], ["b", "a", "b"])
    assert (sums.tolist(), sizes.tolist()) == ([4.0, 2.0], [2.0, 1.0])


@pytest.mark.parametrize("n", [10, 60])
def test_p_is_scipys_paired_permutation_test(n):
    rng = np.random.default_rng(n)
    a, b = rng.integers(0, 2, n).astype(float), rng.integers(0, 2, n).astype(float)
    b[: n // 4] = 1.0
    theirs = stats.permutation_test(
        (b, a),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).pvalue
    assert sign_flip_p(b - a) == pytest.approx(theirs, abs=0.012)


def test_without_any_difference_p_is_one():
    assert sign_flip_p(np.zeros(20)) == 1.0


def test_holm_is_statsmodels():
    p = [0.01, 0.04, 0.03, 0.5, 0.011]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_the_minimum_detectable_effect_is_that_of_a_normal_power_analysis(values):
    needed = NormalIndPower(ddof=0).solve_power(
        nobs1=len(values), alpha=0.05, power=0.8, ratio=0, alternative="two-sided"
    )
    assert minimum_detectable(values) == pytest.approx(needed * values.std(ddof=1), rel=1e-3)


def test_unchanged_items_still_leave_something_undetectable():
    assert minimum_detectable(np.zeros(100)) == pytest.approx(2.8016 * np.sqrt(3) / 100, rel=1e-3)


def test_a_ratio_is_resampled_by_unit():
    rng = np.random.default_rng(0)
    above, below = rng.random((30, 2, 3)), rng.integers(0, 4, (30, 2, 3)).astype(float)
    ratios = bootstrap_ratio(above, below, draws=4000)
    assert ratios.shape == (4000, 2, 3)
    np.testing.assert_allclose(np.median(ratios, 0), above.sum(0) / below.sum(0), rtol=0.05)
    same = bootstrap_ratio(np.ones((5, 1)), np.ones((5, 1)), draws=10)
    assert (same == 1).all()
    assert np.isnan(bootstrap_ratio(np.ones((5, 1)), np.zeros((5, 1)), draws=3)).all()
