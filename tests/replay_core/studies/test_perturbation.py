"""Noise on the pixels; correlations of planted points against scipy; a tiny pair's own numbers."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from replay_core import ReplayConfig
from replay_core.studies import perturbation
from replay_core.studies.perturbation import noised
from replay_core.studies.stats.rank import Point
from tests.replay_core.studies.bench import Bench, Plans
from tests.replay_core.test_reading import divergences


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
            right = None if number % 10 == 3 else right
            wrong = None if number % 5 == 1 else wrong
            points.append(Point(sigma, draw, low, high + 20, right, wrong))
        items.append(points)
    return items


POINTS = planted_points()


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory, drawn):
    """Return the JSON and the result of a study of the planted points."""
    folder = tmp_path_factory.mktemp("perturbed")
    result = perturbation.report(folder, POINTS, settings={"pair": "planted"}, seed=0)
    return json.loads((folder / "perturbation.json").read_text()), result


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
        if getattr(points[0], outcome) is None:
            continue
        x, y = ([getattr(p, key) for p in points] for key in (drifted_by, outcome))
        if given is not None:
            x, y = (rank_residuals(part, [getattr(p, given) for p in points]) for part in (x, y))
            values.append(np.corrcoef(x, y)[0, 1])
        else:
            values.append(spearmanr(x, y).statistic)
    entry = perturbed[0]["findings"][outcome][name]
    assert entry["n"] == len(values) == {"right": 27, "wrong": 24}[outcome]
    assert entry["rho"] == pytest.approx(np.mean(values))
    draws = np.random.default_rng(2).choice(values, (20_000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert entry["interval"] == pytest.approx([low, high], abs=0.06 * (high - low))


def test_right_and_wrong_answers_go_their_own_ways(perturbed):
    content, result = perturbed
    assert perturbation.PerturbationResult.model_validate(content["findings"]) == result
    assert content["findings"]["n"] == content["settings"]["n"] == 30
    assert content["findings"]["right"]["low given high"]["rho"] > 0.2
    assert content["findings"]["wrong"]["low given high"]["rho"] < -0.2


def test_every_column_of_the_ladder(perturbed, drawn):
    rows = perturbed[0]["table"]
    assert [row["sigma"] for row in rows] == [0, 0.5, 1, 1.5, 2]
    for row in rows:
        mine = [p for points in POINTS for p in points if p.sigma == row["sigma"]]
        assert row["points"] == len(mine)
        for name in ("low", "high", "right", "wrong"):
            values = [getattr(p, name) for p in mine if getattr(p, name) is not None]
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
    findings = perturbed[0]["findings"]
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


# A tiny pair -------------------------------------------------------------------------------------

CONFIG = ReplayConfig(layers=(0, 1), threshold=0.6, step_size=1, steps=1)


@torch.no_grad()
def nll(bench, inputs, text):
    """Return the mean negative log-likelihood of a text and the end, by a plain forward."""
    tokenizer = bench.loaded.processor.tokenizer
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    tail = torch.tensor([ids])
    longer = dict(inputs)
    for name, value in (
        ("input_ids", tail),
        ("attention_mask", torch.ones_like(tail)),
        ("mm_token_type_ids", torch.zeros_like(tail)),
    ):
        longer[name] = torch.cat([inputs[name], value], dim=1)
    logits = bench.loaded.policy(**longer).logits[0, inputs["input_ids"].shape[1] - 1 : -1]
    return float(-logits.float().log_softmax(-1).gather(-1, tail.T).mean())


def test_right_and_wrong_perplexities_and_drift_are_those_of_plain_forward_passes(
    load, tmp_path, drawn, planted_answers
):
    """At σ = 0, where the picture is the clean one; one document has no wrong answer."""
    right, wrong = ["yes it is", "it is so"], ["no", "never at all"]
    texts = {
        0: [*right, *wrong],
        1: [right[0], right[0], wrong[1], ""],
        2: [right[1]] * 3 + right[:1],
    }
    plans = Plans(len(texts), 4, CONFIG)
    bench = Bench(load(), CONFIG, len(texts), plans, texts=texts, right=right)
    perturbation.run(bench, tmp_path, None, sigmas=(0.0, 0.5, 1.0, 2.0), draws=1, samples=4)
    row = json.loads((tmp_path / "perturbation.json").read_text())["table"][0]
    clean = {name: [] for name in ("right", "wrong", "low", "high")}
    for document, mine in texts.items():
        inputs = bench.inputs(document)
        for name, allowed in (("right", right), ("wrong", wrong)):
            distinct = sorted({text for text in mine if text in allowed})
            if distinct:
                clean[name].append(np.mean([nll(bench, inputs, text) for text in distinct]))
        entropy, kl, _ = divergences(bench.loaded.base, bench.loaded.policy, inputs)
        visual = (inputs["mm_token_type_ids"][0] > 0).numpy()
        low, high = [], []
        for layer in CONFIG.layers:
            e, divergence = entropy[layer, visual], kl[layer, visual]
            low.append(divergence[e <= 0.6 * e.max()].mean())
            high.append(divergence[e > 0.6 * e.max()].mean())
        clean["low"].append(np.mean(low))
        clean["high"].append(np.mean(high))
    assert (len(clean["right"]), len(clean["wrong"])) == (3, 2)
    for name, values in clean.items():
        assert row[name] == pytest.approx(np.mean(values), rel=1e-3), name
    assert clean["right"] != pytest.approx(clean["wrong"], rel=0.01)
