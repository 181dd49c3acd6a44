"""Noise on the pixels, rank correlations against scipy and regression, and planted ones found."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats

from replay_core.studies.perturbation import correlate, ladder, noised, spearman, split_drift
from tests.replay_core.studies.test_drift import reading_of


def test_each_copy_has_its_own_noise_and_nothing_else_changes(loaded):
    inputs = loaded.singles("one_image")[0]
    batch = noised(inputs, [(0.0, 0), (0.5, 0), (0.5, 1)], seed=3)
    clean = inputs["pixel_values"]
    copies = batch["pixel_values"].split(len(clean))
    assert torch.equal(copies[0], clean)
    assert (copies[1] - clean).std() == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(copies[1], copies[2])
    assert torch.equal(batch["input_ids"], inputs["input_ids"].repeat(3, 1))
    assert torch.equal(batch["image_grid_thw"], inputs["image_grid_thw"].repeat(3, 1))
    again = noised(inputs, [(0.5, 1)], seed=3)
    assert torch.equal(again["pixel_values"], copies[2])
    with torch.no_grad():
        logits = loaded.policy(**batch).logits
        single = loaded.policy(**again).logits
    assert torch.allclose(logits[2], single[0], atol=1e-4)


def test_several_prompts_are_refused(loaded):
    with pytest.raises(ValueError, match="found 3"):
        noised(loaded.batch("mixed"), [(0.0, 0)], seed=0)


def test_drift_is_split_where_the_mask_splits_it():
    reading = reading_of([[1.0, 2.0, 5.0], [4.0, 4.0, 4.0]], [[1, 3, 10], [2, 2, 2]])
    low, high = split_drift(reading, [0, 1], 0.4)
    assert (low, high) == (2.0, pytest.approx((10 + 2) / 2))
    assert split_drift(reading, [1], 1.0) == (2.0, None)


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
        rows = zip(high, low, right, wrong, strict=True)
        found.append(
            [
                {"sigma": i // 2, "draw": i % 2, "high": h, "low": lo, "right": r, "wrong": w}
                for i, (h, lo, r, w) in enumerate(rows)
            ]
        )
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
    for point in items[0]:
        point["right"] = None
    assert correlate(items, "right").n == 4
    assert correlate(items, "wrong").n == 5
    nothing = correlate([[]], "right")
    assert nothing.n == 0
    assert np.isnan(nothing.rho)
    rows = ladder(items)
    assert [row["sigma"] for row in rows] == list(range(6))
    assert rows[0]["right"] == pytest.approx(
        np.mean([p["right"] for item in items[1:] for p in item[:2]])
    )
