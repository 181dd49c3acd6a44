"""Drift of planted readings against numpy, of a tiny pair against plain forward passes.

Planted entropies lie between 2 and 9 nats and divergences below 1, so that one read for the other
is far off; every kind of position, layer and arm has numbers of its own.
"""

import csv
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from replay_core import ReplayConfig
from replay_core.reading import Reading, read
from replay_core.studies import drift
from replay_core.studies.stats.profile import KINDS, cells, changed, contrast, profile
from replay_core.studies.treatments import self_pair
from tests.replay_core.studies.bench import Bench
from tests.replay_core.test_reading import divergences


def test_a_self_pair_drifts_by_exactly_zero_in_every_cell(loaded):
    pair = self_pair(loaded.pair)
    readings = read(pair, loaded.batch("mixed"))
    table = np.stack([cells(reading, 5) for reading in readings])
    assert table[..., 0].sum() > 0
    assert (table[..., 1] == 0).all()
    assert (table[..., 3] == table[..., 0]).all()
    found = profile(table)
    assert np.nanmax(found.kl) == 0
    assert not any(changed(reading) for reading in readings)
    assert contrast(table, "visual").low_minus_high == 0


def test_noise_has_the_norm_of_the_training_tensor_by_tensor(loaded):
    twin = drift.noisy_twin(loaded.policy, loaded.base, seed=0)
    ours, base = dict(loaded.policy.named_parameters()), dict(loaded.base.named_parameters())
    for name, weight in twin.named_parameters():
        wanted = (ours[name] - base[name]).norm()
        assert (weight - base[name]).norm() == pytest.approx(float(wanted), rel=1e-3, abs=1e-6)
        if wanted > 0:
            cosine = torch.nn.functional.cosine_similarity(
                (weight - base[name]).flatten(), (ours[name] - base[name]).flatten(), dim=0
            )
            assert abs(float(cosine)) < 0.9 or weight.numel() < 20
    again = drift.noisy_twin(loaded.policy, loaded.base, seed=0)
    other = drift.noisy_twin(loaded.policy, loaded.base, seed=1)
    name, weight = next((n, w) for n, w in twin.named_parameters() if not torch.equal(w, base[n]))
    assert torch.equal(weight, dict(again.named_parameters())[name])
    assert not torch.equal(weight, dict(other.named_parameters())[name])


ITEMS, LAYERS, VISUAL, TEXT, QUANTILES = 40, 3, 12, 8, 4
ARMS = ("policy", "sft twin", "weight noise")
DOCUMENTS = [3 * number + 1 for number in range(ITEMS)]


def planted_readings():
    """Return arm → one reading per document: low entropies drift more in some arms than others."""
    rng = np.random.default_rng(4)
    found = {arm: [] for arm in ARMS}
    for _ in DOCUMENTS:
        visual = rng.permutation(np.repeat([True, False], [VISUAL, TEXT]))
        entropy = rng.uniform(2, 9, (LAYERS, VISUAL + TEXT))
        own = rng.gamma(2, 0.5)  # what an item's drift has in common over arms
        for arm, size, tilt in zip(ARMS, (0.02, 0.05, 0.004), (-0.2, 0.1, -0.4), strict=True):
            scale = np.array([1.0, 1.6, 0.7])[:, None] * np.where(visual, 1.0, 3.0)
            noise = rng.gamma(3, 1 / 3, entropy.shape)
            kl = own * size * scale * np.exp(tilt * (entropy - 5)) * noise
            base = rng.integers(0, 6, entropy.shape)
            moved = rng.random(entropy.shape) < {"policy": 0.3, "sft twin": 0.15}.get(arm, 0.05)
            found[arm].append(Reading(entropy, kl, base, np.where(moved, base + 7, base), visual))
    return found


READINGS = planted_readings()


@pytest.fixture(scope="module")
def drifted(tmp_path_factory, drawn):
    """Return what a drift study gives and writes whose arms were measured in different orders."""
    folder = tmp_path_factory.mktemp("written")
    rows = []
    for arm, order in zip(ARMS, (1, -1, 1), strict=True):
        mine = list(zip(DOCUMENTS, READINGS[arm], strict=True))[::order]
        rows += [drift.row_of(arm, document, reading, QUANTILES) for document, reading in mine]
    result = drift.report(
        folder,
        rows,
        DOCUMENTS,
        settings={"pair": "planted"},
        decode=lambda ids: [f"word {number}" for number in ids],
        seed=0,
    )
    content = json.loads((folder / "drift.json").read_text())
    return SimpleNamespace(folder=folder, result=result, json=content, figure=drawn["drift"])


def values_of(reading, kind):
    """Return (entropy, kl, agrees), each (layers, positions), of one kind of position."""
    where = reading.visual if kind == "visual" else ~reading.visual
    agrees = reading.base_top == reading.policy_top
    return reading.entropy[:, where], reading.kl[:, where], agrees[:, where]


def quantile_of(entropy):
    """Return in which of the quantiles each position lies at its layer: (layers, positions)."""
    ranks = np.stack([rankdata(layer, method="ordinal") - 1 for layer in entropy])
    return (ranks // (entropy.shape[1] / QUANTILES)).astype(int)


def halves(arm, kind):
    """Return (items, 2): each item's summed KL at its lower and its upper half of entropies."""
    sums = []
    for reading in READINGS[arm]:
        entropy, kl, _ = values_of(reading, kind)
        low = quantile_of(entropy) < QUANTILES // 2
        sums.append([kl[low].sum(), kl[~low].sum()])
    return np.array(sums)  # both halves hold equally many positions


def resampled(values):
    """Return 20,000 resamples of the items' sums: (draws, …)."""
    drawn = np.random.default_rng(8).integers(0, ITEMS, (20_000, ITEMS))
    counts = np.stack([np.bincount(row, minlength=ITEMS) for row in drawn])
    return np.tensordot(counts, values, axes=(1, 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arm", ARMS)
def test_drifts_size_and_shape_are_those_of_the_planted_divergences(drifted, kind, arm):
    entry = drifted.json["findings"][kind][arm]
    parts = [values_of(reading, kind) for reading in READINGS[arm]]
    kl = np.concatenate([part[1].ravel() for part in parts])
    agrees = np.concatenate([part[2].ravel() for part in parts])
    assert entry["mean_kl"] == pytest.approx(kl.mean())
    assert entry["agreement"] == pytest.approx(agrees.mean())
    sums = halves(arm, kind)
    positions = LAYERS * (VISUAL if kind == "visual" else TEXT) / 2 * ITEMS
    assert entry["low_minus_high"] == pytest.approx((sums[:, 0] - sums[:, 1]).sum() / positions)
    assert entry["low_over_high"] == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
    draws = resampled(sums)
    ratios = np.quantile(draws[:, 0] / draws[:, 1], [0.025, 0.975])
    assert entry["low_over_high_interval"] == pytest.approx(ratios.tolist(), rel=0.03)
    gaps = np.quantile((draws[:, 0] - draws[:, 1]) / positions, [0.025, 0.975])
    width = gaps[1] - gaps[0]
    assert entry["low_minus_high_interval"] == pytest.approx(gaps.tolist(), abs=0.06 * width)


def test_the_result_is_what_its_file_holds(drifted):
    findings = drifted.json["findings"]
    assert drift.DriftResult.model_validate(findings) == drifted.result
    assert drifted.result.text["sft twin"].mean_kl == findings["text"]["sft twin"]["mean_kl"]


def test_what_no_position_gives_is_none_in_the_result_and_null_in_the_file(tmp_path, drawn):
    rows = []
    for arm in ARMS[:2]:
        for document in DOCUMENTS[:3]:
            reading = READINGS[arm][DOCUMENTS.index(document)]
            everywhere = replace(reading, visual=np.ones(VISUAL + TEXT, dtype=bool))
            rows.append(drift.row_of(arm, document, everywhere, QUANTILES))
    how = {"settings": {}, "decode": lambda ids: [str(number) for number in ids], "seed": 0}
    result = drift.report(tmp_path, rows, DOCUMENTS[:3], **how)
    text = result.text["sft twin"]
    assert text.low_over_high is text.mean_kl is text.log_ratio_of_policy_to_this is None
    assert text.low_over_high_interval == text.log_ratio_interval == (None, None)
    entry = json.loads((tmp_path / "drift.json").read_text())["findings"]["text"]["sft twin"]
    assert entry["log_ratio_of_policy_to_this"] is entry["mean_kl"] is None
    assert entry["low_over_high_interval"] == [None, None]
    line = "  text   sft twin      mean KL 0 nats, low/high entropy nan [nan, nan]"
    assert line in result.told("planted", "replay_demo").splitlines()
    assert "no drift" in drawn["drift"].axes[3].get_title()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("null", ARMS[1:])
def test_a_null_is_set_against_the_policy_item_by_item(drifted, kind, null):
    """Paired by document, though the twin's rows were measured in the opposite order."""
    findings = drifted.json["findings"]
    assert findings["n"] == ITEMS
    assert "log_ratio_of_policy_to_this" not in findings[kind]["policy"]
    entry = findings[kind][null]
    sums = np.concatenate([halves("policy", kind), halves(null, kind)], axis=1)

    def log_ratio(s):
        return np.log(s[..., 0] / s[..., 1]) - np.log(s[..., 2] / s[..., 3])

    value = log_ratio(sums.sum(0))
    assert entry["log_ratio_of_policy_to_this"] == pytest.approx(value)
    assert (value < 0) == (null == "weight noise")
    low, high = np.quantile(log_ratio(resampled(sums)), [0.025, 0.975])
    expected = pytest.approx([low, high], abs=0.06 * (high - low))
    assert entry["log_ratio_interval"] == expected


def test_every_column_of_the_drift_profile(drifted):
    rows = drifted.json["table"]
    assert len(rows) == len(ARMS) * LAYERS * len(KINDS) * QUANTILES
    for row in rows:
        parts = [values_of(reading, row["positions"]) for reading in READINGS[row["arm"]]]
        at = row["layer"]
        mine = [quantile_of(entropy)[at] == row["quantile"] - 1 for entropy, _, _ in parts]
        chosen = [
            np.concatenate(
                [part[which][at][where] for part, where in zip(parts, mine, strict=True)]
            )
            for which in range(3)
        ]
        entropy, kl, agrees = chosen
        assert row["count"] == len(kl)
        assert row["base_entropy"] == pytest.approx(entropy.mean())
        assert row["kl"] == pytest.approx(kl.mean())
        assert row["top1_agreement"] == pytest.approx(agrees.mean())
        assert row["kl_where_agree"] == pytest.approx(kl[agrees].mean())
        assert row["low"] < row["kl"] < row["high"]


def test_a_profiles_interval_is_the_item_bootstrap_at_95_percent(drifted):
    row = drifted.json["table"][0]
    parts = [values_of(reading, "visual") for reading in READINGS["policy"]]
    sums = np.array([kl[0][quantile_of(e)[0] == 0].sum() for e, kl, _ in parts])
    low, high = np.quantile(resampled(sums), [0.025, 0.975]) / row["count"]
    assert (row["low"], row["high"]) == pytest.approx((low, high), rel=0.03)


def test_the_csv_has_the_profile_of_the_json(drifted):
    with (drifted.folder / "drift.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row, line in zip(drifted.json["table"], lines, strict=True):
        numbers = {k: v for k, v in row.items() if not isinstance(v, str)}
        assert {k: float(line[k]) for k in numbers} == pytest.approx(numbers, rel=1e-5)


def test_changed_words_are_the_policys_from_base_to_policy(drifted):
    expected = Counter()
    for reading in READINGS["policy"]:
        for kind in KINDS:
            where = reading.visual if kind == "visual" else ~reading.visual
            base, policy = reading.base_top[:, where], reading.policy_top[:, where]
            expected.update(
                (kind, b, p) for b, p in zip(base.flat, policy.flat, strict=True) if b != p
            )
    with (drifted.folder / "drift_changed.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = {
        (r["positions"], int(r["base_id"]), int(r["policy_id"])): int(r["count"]) for r in lines
    }
    assert found == expected
    assert all(int(r["policy_id"]) == int(r["base_id"]) + 7 for r in lines)
    assert all(r["base"] == f"word {r['base_id']}" for r in lines)
    assert all(r["policy"] == f"word {r['policy_id']}" for r in lines)


def test_the_drift_figure_shows_kl_by_layer_and_each_arms_shape(drifted):
    visual, text, *shapes = drifted.figure.axes[:4]
    table = drifted.json["table"]
    findings = drifted.json["findings"]
    for kind, heat, shape in zip(KINDS, (visual, text), shapes, strict=True):
        cells = {(r["arm"], r["layer"], r["quantile"]): r for r in table if r["positions"] == kind}
        (image,) = heat.get_images()
        for (layer, column), value in np.ndenumerate(np.asarray(image.get_array())):
            assert value == pytest.approx(cells["policy", layer, column + 1]["kl"])
        assert heat.get_title().startswith(f"{kind} positions")
        assert f": {findings[kind]['policy']['low_over_high']:.2g})" in shape.get_title()
        lines = {line.get_label(): line.get_ydata() for line in shape.get_lines()}
        for arm in ARMS:
            means = [
                np.mean([cells[arm, layer, q + 1]["kl"] for layer in range(LAYERS)])
                for q in range(QUANTILES)
            ]
            assert list(lines[arm]) == pytest.approx((means / np.mean(means)).tolist())


# A tiny pair -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(load):
    return Bench(load(), ReplayConfig(layers=(0, 1)), size=3, batch_size=2)


@pytest.fixture(scope="module")
def measured(bench, load, tmp_path_factory, drawn):
    """Return the JSON of a drift study whose twin is the policy's own checkpoint."""
    folder = tmp_path_factory.mktemp("drift")
    drift.run(bench, folder, None, null_policy=str(load().folders.policy))
    return json.loads((folder / "drift.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arm", ["policy", "sft twin"])
def test_mean_drift_is_that_of_plain_forward_passes(bench, measured, kind, arm):
    kl, agrees = [], []
    for document in range(bench.size):
        inputs = bench.inputs(document)
        _, divergence, same = divergences(bench.loaded.base, bench.loaded.policy, inputs)
        visual = (inputs["mm_token_type_ids"][0] > 0).numpy()
        where = visual if kind == "visual" else ~visual
        kl.append(divergence[:, where].ravel())
        agrees.append(same[:, where].ravel())
    entry = measured["findings"][kind][arm]
    assert entry["mean_kl"] == pytest.approx(np.concatenate(kl).mean(), rel=1e-3)
    assert entry["agreement"] == pytest.approx(np.concatenate(agrees).mean(), abs=0.005)


def test_a_twin_that_is_the_policy_explains_all_of_its_shape_and_noise_does_not(measured):
    for kind in KINDS:
        twin, noise = (measured["findings"][kind][arm] for arm in ("sft twin", "weight noise"))
        assert twin["log_ratio_of_policy_to_this"] == pytest.approx(0, abs=1e-6)
        assert abs(noise["log_ratio_of_policy_to_this"]) > 1e-3
        assert noise["mean_kl"] != pytest.approx(twin["mean_kl"], rel=0.01)
    assert measured["findings"]["n"] == measured["settings"]["n"] == 3
