"""Drift and perplexities of a tiny pair, without a harness, against plain forward passes."""

import json

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from replay_adapters.studies.measured import run_drift, run_perturbation
from replay_core import ReplayConfig
from replay_core.studies.drift import KINDS
from tests.replay_adapters.studies.bench import Bench, Plans
from tests.replay_core.studies.test_drift import spelled_out

DOCUMENTS = 3
CONFIG = ReplayConfig(layers=(0, 1), threshold=0.6, step_size=1, steps=1)


@pytest.fixture(scope="module")
def bench(load):
    found = Bench(load(), CONFIG, size=DOCUMENTS)
    found.batch_size = 2
    return found


@torch.no_grad()
def divergences(base, policy, inputs):
    """Return (entropy, kl, agrees), each (layers, positions), spelled out in torch."""
    ours, theirs = (Categorical(logits=spelled_out(model, inputs)) for model in (base, policy))
    agrees = ours.logits.argmax(-1) == theirs.logits.argmax(-1)
    return ours.entropy().numpy(), kl_divergence(ours, theirs).numpy(), agrees.numpy()


@pytest.fixture(scope="module")
def drift(bench, load, tmp_path_factory, drawn):
    """Return the findings of a drift study whose twin is the policy's own checkpoint."""
    folder = tmp_path_factory.mktemp("drift")
    run_drift(bench, folder, None, null_policy=str(load().folders.policy))
    return json.loads((folder / "drift.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arm", ["policy", "sft twin"])
def test_mean_drift_is_that_of_plain_forward_passes(bench, drift, kind, arm):
    kl, agrees = [], []
    for document in range(DOCUMENTS):
        inputs = bench.inputs(document)
        _, divergence, same = divergences(bench.loaded.base, bench.loaded.policy, inputs)
        visual = (inputs["mm_token_type_ids"][0] > 0).numpy()
        where = visual if kind == "visual" else ~visual
        kl.append(divergence[:, where].ravel())
        agrees.append(same[:, where].ravel())
    entry = drift["findings"][kind][arm]
    assert entry["mean_kl"] == pytest.approx(np.concatenate(kl).mean(), rel=1e-3)
    assert entry["agreement"] == pytest.approx(np.concatenate(agrees).mean(), abs=0.005)


def test_a_twin_that_is_the_policy_explains_all_of_its_shape_and_noise_does_not(drift):
    for kind in KINDS:
        twin, noise = (drift["findings"][kind][arm] for arm in ("sft twin", "weight noise"))
        assert twin["log_ratio_of_policy_to_this"] == pytest.approx(0, abs=1e-6)
        assert abs(noise["log_ratio_of_policy_to_this"]) > 1e-3
        assert noise["mean_kl"] != pytest.approx(twin["mean_kl"], rel=0.01)
    assert drift["findings"]["n"] == drift["settings"]["n"] == DOCUMENTS


@torch.no_grad()
def nll(bench, inputs, text):
    """Return the mean negative log-likelihood of a text and the end, by a plain forward."""
    tokenizer = bench.lm.tokenizer
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
    texts = {0: [*right, *wrong], 1: [right[0], right[0], wrong[1], ""], 2: [right[1]] * 4}
    plans = Plans(DOCUMENTS, 4, CONFIG)
    bench = Bench(load(), CONFIG, DOCUMENTS, plans, texts=texts, right=right)
    run_perturbation(bench, tmp_path, None, sigmas=(0.0, 0.5, 1.0, 2.0), draws=1, samples=4)
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
