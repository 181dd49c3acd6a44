"""Rank correlations against scipy and regression, and planted ones found."""

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from replay_core.studies.stats.rank import Point, correlate, ladder, spearman


def test_spearman_is_scipys_and_the_partial_one_is_that_of_rank_residuals():
    rng = np.random.default_rng(5)
    z = rng.normal(size=40)
    x, y = z + rng.normal(size=40), z + rng.normal(size=40)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    ranks = [stats.rankdata(v) for v in (x, y, z)]
    left = [sm.OLS(v, sm.add_constant(ranks[2])).fit().resid for v in ranks[:2]]
    assert spearman(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1])
    assert np.isnan(spearman(np.ones(5), np.arange(5)))
    assert np.isnan(spearman(x, y, x))


def planted(own: float, shared: float, items: int = 60, seed: int = 0):
    """Return items whose right answers' log-perplexity follows low drift by ``own`` beyond what
    both take from the high-entropy drift (``shared``); the wrong answers' goes the other way."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(items):
        high = rng.normal(size=12)
        mine = rng.normal(size=12)
        low = shared * high + mine
        right = own * mine + shared * high + rng.normal(size=12)
        wrong = -own * mine + shared * high + rng.normal(size=12)
        rows = zip(low, high, right, wrong, strict=True)
        found.append([Point(i // 2, i % 2, *values) for i, values in enumerate(rows)])
    return found


def test_a_planted_correlation_is_found_with_its_sign():
    items = planted(1.0, 0.0)
    right, wrong = correlate(items, "right"), correlate(items, "wrong")
    assert right.n == 60
    assert right.interval.low > 0
    assert wrong.interval.high < 0
    # Spearman of two normals with Pearson 1/sqrt(2), as an item of 12 points has it on average.
    rng = np.random.default_rng(9)
    truth = np.mean(
        [spearman(x := rng.normal(size=12), x + rng.normal(size=12)) for _ in range(4000)]
    )
    assert truth in right.interval


def test_what_high_entropy_drift_explains_is_taken_out():
    items = planted(0.0, 0.7)
    assert correlate(items, "right").interval.low > 0.15
    partial = [correlate(planted(0.0, 0.7, seed=s), "right", "high") for s in range(20)]
    # Ranks leave a little of a strong common cause; see the docstring of spearman.
    assert np.mean([each.rho for each in partial]) == pytest.approx(0, abs=0.045)
    assert sum(0 in each.interval for each in partial) >= 15
    assert correlate(planted(1.0, 0.7), "right", "high").interval.low > 0.2


def test_without_a_correlation_none_is_found():
    found = [correlate(planted(0.0, 0.0, seed=seed), "right") for seed in range(20)]
    assert sum(0 in each.interval for each in found) >= 17


def test_items_without_an_answer_are_left_out_and_counted():
    items = planted(1.0, 0.0, items=5)
    items[0] = [replace(point, right=None) for point in items[0]]
    assert correlate(items, "right").n == 4
    assert correlate(items, "wrong").n == 5
    nothing = correlate([[]], "right")
    assert nothing.n == 0
    assert np.isnan(nothing.rho)
    rows = ladder(items)
    assert [row["sigma"] for row in rows] == list(range(6))
    assert rows[0]["right"] == pytest.approx(
        np.mean([p.right for item in items[1:] for p in item[:2]])
    )
