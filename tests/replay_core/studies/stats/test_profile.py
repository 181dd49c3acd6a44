"""Cells that count every position once, and profiles found where they were planted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from replay_core.reading import Reading
from replay_core.studies.stats.profile import (
    against_null,
    cells,
    contrast,
    profile,
    split_drift,
    top_changes,
)


def reading_of(entropy, kl, visual=None) -> Reading:
    entropy, kl = np.atleast_2d(entropy).astype(float), np.atleast_2d(kl).astype(float)
    tops = np.zeros(entropy.shape, dtype=int)
    where = np.ones(entropy.shape[1], dtype=bool) if visual is None else np.array(visual)
    return Reading(entropy, kl, tops, tops.copy(), where)


def test_every_position_is_counted_once_in_its_quantile():
    reading = reading_of([3, 1, 2, 5, 4, 0], [30, 10, 20, 50, 40, 0], [1, 1, 1, 1, 1, 0])
    reading = replace(reading, visual=reading.visual.astype(bool))
    table = cells(reading, 5)
    assert table[0, 0, :, 0].tolist() == [1] * 5
    assert table[0, 0, :, 1].tolist() == [10, 20, 30, 40, 50]
    assert table[0, 1, :, 0].sum() == 1


def planted(slope: float, items: int = 60, seed: int = 0) -> np.ndarray:
    """Return cells of items whose KL falls (slope < 0) or rises with the base's entropy."""
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(items):
        entropy = rng.random((3, 40)) * 2
        kl = np.exp(slope * (entropy - 1)) * rng.gamma(4, 0.25, (3, 40)) * rng.gamma(8, 1 / 8)
        tables.append(cells(reading_of(entropy, kl), 10))
    return np.stack(tables)


def test_a_planted_profile_is_found_with_its_sign():
    # The mean of exp(-s) over s in (-1, 0), over that in (0, 1).
    truth = (np.e - 1) / (1 - np.exp(-1))
    falling = contrast(planted(-1.0), "visual")
    assert falling.low_minus_high_interval.low > 0
    assert truth in falling.low_over_high_interval
    rising = contrast(planted(1.0), "visual")
    assert rising.low_minus_high_interval.high < 0
    assert rising.low_over_high < 1


def test_without_a_profile_none_is_found():
    found = [contrast(planted(0.0, seed=seed), "visual") for seed in range(20)]
    assert sum(0 in each.low_minus_high_interval for each in found) >= 17
    assert sum(1 in each.low_over_high_interval for each in found) >= 17


def test_a_null_of_the_same_shape_explains_the_profile_and_another_one_does_not():
    found = [
        against_null(planted(1.0, seed=seed), planted(1.0, seed=seed + 100), "visual")
        for seed in range(20)
    ]
    assert sum(0 in interval for _, interval in found) >= 17
    more, interval = against_null(planted(0.0), planted(1.0, seed=1), "visual")
    assert more > 0
    assert interval.low > 0


def test_a_profiles_intervals_cover_its_means():
    found = profile(planted(-1.0))
    visual = found.kl[:, 0]
    assert (found.low[:, 0] <= visual).all()
    assert (visual <= found.high[:, 0]).all()
    assert (np.diff(visual.mean(0)) < 0).all()
    assert np.isnan(found.kl[:, 1]).all()


def test_changes_are_ranked_by_kind():
    counts = Counter({("visual", 1, 2): 3, ("visual", 4, 5): 7, ("text", 1, 2): 9})
    assert top_changes(counts, "visual") == [(4, 5, 7), (1, 2, 3)]
    assert top_changes(counts, "text", 1) == [(1, 2, 9)]


def test_drift_is_split_where_the_mask_splits_it():
    reading = reading_of([[1.0, 2.0, 5.0], [4.0, 4.0, 4.0]], [[1, 3, 10], [2, 2, 2]])
    low, high = split_drift(reading, 0.4)
    assert (low, high) == (2.0, pytest.approx((10 + 2) / 2))
    assert split_drift(reading_of([4.0, 4.0, 4.0], [2, 2, 2]), 1.0) == (2.0, None)
