"""Findings, tables and figures from planted readings and likelihoods, against numpy and scipy.

Entropies are planted between 2 and 9 nats and divergences below 1, so that one read for the other
is far off; every kind of position, layer and arm has numbers of its own.
"""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from replay_adapters.studies.written import drift_row, write_drift, write_perturbation
from replay_core.reading import Reading
from replay_core.studies.drift import KINDS

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
    """Return the folder of a drift study whose arms were measured in different orders."""
    folder = tmp_path_factory.mktemp("written")
    rows = []
    for arm, order in zip(ARMS, (1, -1, 1), strict=True):
        mine = list(zip(DOCUMENTS, READINGS[arm], strict=True))[::order]
        rows += [drift_row(arm, document, reading, QUANTILES) for document, reading in mine]
    write_drift(
        folder,
        rows,
        DOCUMENTS,
        settings={"pair": "planted"},
        decode=lambda ids: [f"word {number}" for number in ids],
        seed=0,
    )
    return folder


def json_of(folder, study):
    return json.loads((folder / f"{study}.json").read_text())


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
    entry = json_of(drifted, "drift")["findings"][kind][arm]
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("null", ARMS[1:])
def test_a_null_is_set_against_the_policy_item_by_item(drifted, kind, null):
    """Paired by document, though the twin's rows were measured in the opposite order."""
    findings = json_of(drifted, "drift")["findings"]
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
    rows = json_of(drifted, "drift")["table"]
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
    row = json_of(drifted, "drift")["table"][0]
    parts = [values_of(reading, "visual") for reading in READINGS["policy"]]
    sums = np.array([kl[0][quantile_of(e)[0] == 0].sum() for e, kl, _ in parts])
    low, high = np.quantile(resampled(sums), [0.025, 0.975]) / row["count"]
    assert (row["low"], row["high"]) == pytest.approx((low, high), rel=0.03)


def test_the_csv_has_the_profile_of_the_json(drifted):
    with (drifted / "drift.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row, line in zip(json_of(drifted, "drift")["table"], lines, strict=True):
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
    with (drifted / "drift_changed.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = {
        (r["positions"], int(r["base_id"]), int(r["policy_id"])): int(r["count"]) for r in lines
    }
    assert found == expected
    assert all(int(r["policy_id"]) == int(r["base_id"]) + 7 for r in lines)
    assert all(r["base"] == f"word {r['base_id']}" for r in lines)
    assert all(r["policy"] == f"word {r['policy_id']}" for r in lines)


def test_the_drift_figure_shows_kl_by_layer_and_each_arms_shape(drifted, drawn):
    visual, text, *shapes = drawn["drift"].axes[:4]
    table = json_of(drifted, "drift")["table"]
    findings = json_of(drifted, "drift")["findings"]
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


# Perturbation ------------------------------------------------------------------------------------

SIGMAS = (0.0, 0.5, 0.5, 1.0, 1.0, 1.5, 1.5, 2.0)


def planted_points():
    """Return items of points; right answers follow low drift, wrong ones go against it.

    Some items have no wrong answers, fewer no right ones.
    """
    rng = np.random.default_rng(6)
    items = []
    for number in range(30):
        points = []
        for draw, sigma in enumerate(SIGMAS):
            high = sigma + rng.normal(0, 0.8)
            low = 0.5 * high + rng.normal(0, 1)
            right = 3 + low + 0.4 * sigma + rng.normal(0, 1)
            wrong = 9 - 0.8 * low - 0.5 * high + rng.normal(0, 1)
            point = {"sigma": sigma, "draw": draw, "low": low, "high": high + 20}
            point["right"] = None if number % 10 == 3 else right
            point["wrong"] = None if number % 5 == 1 else wrong
            points.append(point)
        items.append(points)
    return items


POINTS = planted_points()


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("perturbed")
    write_perturbation(folder, POINTS, settings={"pair": "planted"}, seed=0)
    return folder


def rank_residuals(values, given):
    """Return ranks with the straight line over the ranks of ``given`` taken out."""
    x, y = rankdata(given), rankdata(values)
    return y - np.polyval(np.polyfit(x, y, 1), x)


@pytest.mark.parametrize("outcome", ["right", "wrong"])
@pytest.mark.parametrize(
    ("name", "drifted_by", "given"),
    [
        ("low", "low", None),
        ("low given high", "low", "high"),
        ("low given sigma", "low", "sigma"),
        ("high given low", "high", "low"),
    ],
)
def test_each_correlation_is_the_mean_of_scipys_over_items(
    perturbed, outcome, name, drifted_by, given
):
    values = []
    for points in POINTS:
        if points[0][outcome] is None:
            continue
        x, y = ([p[key] for p in points] for key in (drifted_by, outcome))
        if given is not None:
            x, y = (rank_residuals(part, [p[given] for p in points]) for part in (x, y))
            values.append(np.corrcoef(x, y)[0, 1])
        else:
            values.append(spearmanr(x, y).statistic)
    entry = json_of(perturbed, "perturbation")["findings"][outcome][name]
    assert entry["n"] == len(values) == {"right": 27, "wrong": 24}[outcome]
    assert entry["rho"] == pytest.approx(np.mean(values))
    draws = np.random.default_rng(2).choice(values, (20_000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert entry["interval"] == pytest.approx([low, high], abs=0.06 * (high - low))


def test_right_and_wrong_answers_go_their_own_ways(perturbed):
    content = json_of(perturbed, "perturbation")
    assert content["findings"]["n"] == content["settings"]["n"] == 30
    assert content["findings"]["right"]["low given high"]["rho"] > 0.2
    assert content["findings"]["wrong"]["low given high"]["rho"] < -0.2


def test_every_column_of_the_ladder(perturbed, drawn):
    rows = json_of(perturbed, "perturbation")["table"]
    assert [row["sigma"] for row in rows] == [0, 0.5, 1, 1.5, 2]
    for row in rows:
        mine = [p for points in POINTS for p in points if p["sigma"] == row["sigma"]]
        assert row["points"] == len(mine)
        for name in ("low", "high", "right", "wrong"):
            values = [p[name] for p in mine if p[name] is not None]
            assert row[name] == pytest.approx(np.mean(values))
    drift_axes, likelihoods, _ = drawn["perturbation"].axes
    lines = {
        line.get_label(): list(line.get_ydata())
        for axes in (drift_axes, likelihoods)
        for line in axes.get_lines()
    }
    for label, name in (
        ("low-entropy", "low"),
        ("high-entropy", "high"),
        ("right answers", "right"),
        ("wrong answers", "wrong"),
    ):
        assert lines[label] == pytest.approx([row[name] for row in rows])


def test_the_figure_shows_each_correlations_own_interval(perturbed, drawn):
    axes = drawn["perturbation"].axes[2]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    findings = json_of(perturbed, "perturbation")["findings"]
    spans = {line.get_ydata()[0]: line for line in axes.get_lines() if line.get_linewidth() == 2}
    dots = {line.get_ydata()[0]: line for line in axes.get_lines() if line.get_marker() == "o"}
    for at, label in enumerate(labels):
        outcome, rest = label.split(": ")
        name, n = rest.removesuffix(")").split(" (n = ")
        entry = findings[outcome][name]
        assert int(n) == entry["n"]
        assert list(spans[at].get_xdata()) == pytest.approx(entry["interval"])
        assert dots[at].get_xdata()[0] == pytest.approx(entry["rho"])
    assert len(labels) == 8
