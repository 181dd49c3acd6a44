"""Fixed thresholds from dynamic ones, on entropies that were planted and on those of a pair."""

import csv
import json

import numpy as np
import pytest

from replay_core import ReplayConfig, UsageError
from replay_core.reading import Reading
from replay_core.studies import thresholds
from replay_core.studies.thresholds import candidates, find
from tests.replay_core.studies.bench import Bench
from tests.replay_core.test_reading import divergences


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


def test_a_pairs_thresholds_are_its_bases_and_name_their_layers(load, tmp_path) -> None:
    # Thresholds that the settings name already, and for other layers, do not matter.
    config = ReplayConfig(layers=(0, 2), threshold=0.6, thresholds={1: 3.0})
    bench = Bench(load(), config, size=3, batch_size=2)
    found = thresholds.run(bench, tmp_path, 2, 1)
    inputs = bench.inputs(1)  # as every document has
    entropy, _, _ = divergences(bench.loaded.base, bench.loaded.policy, inputs)
    mine = entropy[:, (inputs["mm_token_type_ids"][0] > 0).numpy()]
    expected = {layer: 0.6 * mine[layer].max() for layer in (0, 2)}
    content = json.loads((tmp_path / "thresholds.json").read_text())
    assert content["thresholds"] == {
        str(k): pytest.approx(v, rel=1e-3) for k, v in expected.items()
    }
    assert (content["n"], content["documents"]) == (found.samples, [1, 2]) == (2, [1, 2])
    assert (content["gamma"], content["positions"]) == (0.6, "visual")
    with (tmp_path / "thresholds.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, layer in zip(rows, (0, 2), strict=True):
        share = (mine[layer] <= expected[layer]).mean()
        assert int(row["layer"]) == layer
        assert float(row["nats"]) == pytest.approx(expected[layer], rel=1e-3)
        assert float(row["fixed_share"]) == pytest.approx(share, rel=1e-3)
    told = found.told("planted", "replay_demo_dev").splitlines()
    assert told[0] == (
        "Fixed thresholds of planted on replay_demo_dev: the mean of γ·max entropy, n = 2"
    )
    assert told[1].startswith(f"  {found.nats[0]:.4f} nats: selects {found.fixed_share[0]:.3f} (")


def test_a_task_without_candidates_is_named(load, tmp_path) -> None:
    bench = Bench(load(), ReplayConfig(layers=(0,)), size=1)
    bench._inputs = bench.loaded.singles("mixed")[1:2]  # text only
    with pytest.raises(UsageError, match="task planted: no sample has a candidate"):
        thresholds.run(bench, tmp_path, None)
