"""Both lenses at every position, against the lens spelled out and torch.distributions."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from replay_core.reading import read
from tests.replay_core.helpers import state_of


def spelled_out(model, inputs) -> torch.Tensor:
    """Return the lens logits (layers, tokens, vocabulary) of a single prompt."""
    states = model(**inputs, output_hidden_states=True).hidden_states
    norm, head = model.get_decoder().norm, model.get_output_embeddings()
    normed = [*(norm(h) for h in states[1:-1]), states[-1]]  # the last one is normed already
    return torch.stack([head(h)[0] for h in normed]).float()


@torch.no_grad()
def divergences(base, policy, inputs):
    """Return (entropy, kl, agrees), each (layers, positions), spelled out in torch."""
    ours, theirs = (Categorical(logits=spelled_out(model, inputs)) for model in (base, policy))
    agrees = ours.logits.argmax(-1) == theirs.logits.argmax(-1)
    return ours.entropy().numpy(), kl_divergence(ours, theirs).numpy(), agrees.numpy()


@torch.no_grad()
def test_entropy_and_kl_are_those_of_torch_distributions(loaded):
    for inputs in loaded.singles("one_image")[:2]:
        (reading,) = read(loaded.pair, inputs)
        base = Categorical(logits=spelled_out(loaded.base, inputs))
        policy = Categorical(logits=spelled_out(loaded.policy, inputs))
        np.testing.assert_allclose(reading.entropy, base.entropy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(reading.kl, kl_divergence(base, policy), rtol=1e-3, atol=1e-5)
        assert (reading.base_top == base.logits.argmax(-1).numpy()).mean() > 0.999
        assert (reading.policy_top == policy.logits.argmax(-1).numpy()).mean() > 0.999
        assert (reading.visual == (inputs["mm_token_type_ids"][0] > 0).numpy()).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_reads_like_its_samples(loaded, side):
    together = read(loaded.pair, loaded.batch("mixed", side))
    for one, inputs in zip(together, loaded.singles("mixed"), strict=True):
        (alone,) = read(loaded.pair, inputs)
        np.testing.assert_allclose(one.kl, alone.kl, rtol=1e-3, atol=1e-5)
        assert (one.visual == alone.visual).all()


def test_base_and_policy_are_not_exchanged(loaded):
    inputs = loaded.singles("one_image")[0]
    (there,) = read(loaded.pair, inputs)
    (back,) = read(loaded.swapped(), inputs)
    assert not np.allclose(there.kl, back.kl, rtol=1e-2)
    assert (there.base_top == back.policy_top).all()


def test_the_models_are_left_as_they_were(loaded):
    before = state_of(loaded.policy, loaded.base)
    read(loaded.pair, loaded.batch("mixed"))
    assert state_of(loaded.policy, loaded.base) == before
