"""Fixed thresholds from dynamic ones, on entropies that were planted."""

import numpy as np
import pytest

from replay_core import ReplayConfig
from replay_core.reading import Reading
from replay_core.studies.thresholds import candidates, find


def test_a_threshold_is_the_mean_of_gamma_times_each_samples_largest_entropy() -> None:
    one = np.array([[1.0, 2.0, 4.0], [0.5, 0.5, 1.0]])  # two layers
    two = np.array([[3.0, 8.0], [1.0, 3.0]])
    found = find([one, two, np.empty((2, 0))], 0.5)
    assert found.samples == 2
    assert found.nats.tolist() == [(2 + 4) / 2, (0.5 + 1.5) / 2]
    assert found.deviation == pytest.approx([1.0, 0.5])
    assert found.dynamic_share == pytest.approx([3 / 5, 3 / 5])  # 1, 2 | 3 and .5, .5 | 1
    assert found.fixed_share == pytest.approx([3 / 5, 4 / 5])


def test_samples_that_are_alike_select_what_the_dynamic_mask_selects() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 5, (3, 40))
    found = find([values] * 4, 0.4)
    assert found.fixed_share == pytest.approx(found.dynamic_share)
    assert found.deviation == pytest.approx([0, 0, 0])


def test_thresholds_are_handed_on_by_layer_and_above_zero() -> None:
    found = find([np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[5.0], [0.0]])], 0.4)
    by_layer = found.by_layer((2, 7))
    assert by_layer == {2: pytest.approx(0.4 * (3 + 5) / 2), 7: 1e-6}
    assert ReplayConfig(thresholds=by_layer).fixed_thresholds == by_layer


def test_the_rule_is_not_the_quantile_of_equal_share() -> None:
    # The two differ most where entropies bunch up: here 9 of 10 lie at 0.1, and γ·max is 0.4.
    items = [np.array([[0.1] * 9 + [peak]]) for peak in (0.9, 1.1)]
    assert find(items, 0.4).nats.tolist() == [pytest.approx(0.4)]


def test_nothing_comes_from_nothing() -> None:
    with pytest.raises(ValueError, match="no sample has a candidate"):
        find([np.empty((2, 0))], 0.4)


def test_candidates_are_the_visual_positions_or_all() -> None:
    entropy = np.arange(6.0).reshape(2, 3)
    ids = np.zeros((2, 3), int)
    reading = Reading(entropy, entropy, ids, ids, np.array([True, False, True]))
    assert candidates(reading, "visual").tolist() == [[0, 2], [3, 5]]
    assert candidates(reading, "input").tolist() == entropy.tolist()
