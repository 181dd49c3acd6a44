"""Pass@K against enumeration, and on samples with a planted difference."""

from itertools import combinations

import numpy as np
import pytest

from replay_core.studies.stats.passk import curve, difference, pass_at_k


@pytest.mark.parametrize(("n", "correct"), [(5, 0), (5, 2), (6, 6), (7, 1)])
def test_the_estimate_is_the_mean_over_all_subsets(n, correct):
    answers = [1] * correct + [0] * (n - correct)
    for k in range(1, n + 1):
        expected = np.mean([max(subset) for subset in combinations(answers, k)])
        assert pass_at_k(n, correct, k) == pytest.approx(expected)


def test_it_is_unbiased_where_the_plug_in_is_not():
    rng, p, k = np.random.default_rng(0), 0.1, 4
    counts = rng.binomial(10, p, 20_000)
    assert np.mean([pass_at_k(10, c, k) for c in counts]) == pytest.approx(
        1 - (1 - p) ** k, abs=0.006
    )
    assert abs(np.mean(1 - (1 - counts / 10) ** k) - (1 - (1 - p) ** k)) > 0.02


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="n = 4, c = 1"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match="no items"):
        curve({})


def arm(share: float, items: int = 200, seed: int = 0) -> dict[int, list[float]]:
    rng = np.random.default_rng(seed)
    hard = rng.random(items)
    return {
        item: (np.random.default_rng([seed, item]).random(16) < share * hard[item])
        .astype(float)
        .tolist()
        for item in range(items)
    }


def test_a_planted_gain_lifts_the_whole_curve_and_bands_exclude_zero():
    gap = difference(arm(0.3), arm(0.6))
    assert gap.ks == tuple(range(1, 17))
    assert (gap.low > 0).all()
    truth = 0.15  # the mean of 0.3 * u over items
    assert gap.low[0] < truth < gap.high[0]


def test_narrowing_is_seen_where_it_was_planted():
    """One arm is right at random, the other always or never: equal at 1, apart at 16."""
    rng = np.random.default_rng(1)
    spread = {i: (rng.random(16) < 0.5).astype(float).tolist() for i in range(300)}
    sharp = {i: [float(i % 2)] * 16 for i in range(300)}
    gap = difference(spread, sharp)
    assert gap.low[0] < 0 < gap.high[0]
    assert gap.high[-1] < -0.3


def test_equal_arms_show_nothing():
    gap = difference(arm(0.5, seed=1), arm(0.5, seed=1))
    assert (gap.estimate == 0).all()
    assert (gap.low <= 0).all()
    assert (gap.high >= 0).all()


def test_bands_are_wider_with_fewer_items():
    few, many = curve(arm(0.5, 50)), curve(arm(0.5, 400))
    assert (few.high - few.low)[0] > 2 * (many.high - many.low)[0]


def test_arms_of_other_items_are_refused():
    with pytest.raises(ValueError, match="1 only in the first"):
        difference({1: [1.0], 2: [0.0]}, {1: [1.0]})
