"""Drift against the lens spelled out, zero for a pair of twins, and found where it was planted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from replay_core.reading import Reading, read
from replay_core.studies import drift
from replay_core.studies.treatments import self_pair
from tests.replay_core.helpers import state_of


def spelled_out(model, inputs) -> torch.Tensor:
    """Return the lens logits (layers, tokens, vocabulary) of a single prompt."""
    states = model(**inputs, output_hidden_states=True).hidden_states
    norm, head = model.get_decoder().norm, model.get_output_embeddings()
    normed = [*(norm(h) for h in states[1:-1]), states[-1]]  # the last one is normed already
    return torch.stack([head(h)[0] for h in normed]).float()


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


def test_a_self_pair_drifts_by_exactly_zero_in_every_cell(loaded):
    pair = self_pair(loaded.pair)
    readings = read(pair, loaded.batch("mixed"))
    table = np.stack([drift.cells(reading, 5) for reading in readings])
    assert table[..., 0].sum() > 0
    assert (table[..., 1] == 0).all()
    assert (table[..., 3] == table[..., 0]).all()
    found = drift.profile(table)
    assert np.nanmax(found.kl) == 0
    assert not any(drift.changed(reading) for reading in readings)
    assert drift.contrast(table, "visual").difference == 0


def test_the_models_are_left_as_they_were(loaded):
    before = state_of(loaded.policy, loaded.base)
    read(loaded.pair, loaded.batch("mixed"))
    assert state_of(loaded.policy, loaded.base) == before


def reading_of(entropy, kl, visual=None) -> Reading:
    entropy, kl = np.atleast_2d(entropy).astype(float), np.atleast_2d(kl).astype(float)
    tops = np.zeros(entropy.shape, dtype=int)
    where = np.ones(entropy.shape[1], dtype=bool) if visual is None else np.array(visual)
    return Reading(entropy, kl, tops, tops.copy(), where)


def test_every_position_is_counted_once_in_its_quantile():
    reading = reading_of([3, 1, 2, 5, 4, 0], [30, 10, 20, 50, 40, 0], [1, 1, 1, 1, 1, 0])
    reading = replace(reading, visual=reading.visual.astype(bool))
    table = drift.cells(reading, 5)
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
        tables.append(drift.cells(reading_of(entropy, kl), 10))
    return np.stack(tables)


def test_a_planted_profile_is_found_with_its_sign():
    # The mean of exp(-s) over s in (-1, 0), over that in (0, 1).
    truth = (np.e - 1) / (1 - np.exp(-1))
    falling = drift.contrast(planted(-1.0), "visual")
    assert falling.interval.low > 0
    assert truth in falling.ratio_interval
    rising = drift.contrast(planted(1.0), "visual")
    assert rising.interval.high < 0
    assert rising.ratio < 1


def test_without_a_profile_none_is_found():
    found = [drift.contrast(planted(0.0, seed=seed), "visual") for seed in range(20)]
    assert sum(0 in each.interval for each in found) >= 17
    assert sum(1 in each.ratio_interval for each in found) >= 17


def test_a_null_of_the_same_shape_explains_the_profile_and_another_one_does_not():
    found = [
        drift.against_null(planted(1.0, seed=seed), planted(1.0, seed=seed + 100), "visual")
        for seed in range(20)
    ]
    assert sum(0 in interval for _, interval in found) >= 17
    more, interval = drift.against_null(planted(0.0), planted(1.0, seed=1), "visual")
    assert more > 0
    assert interval.low > 0


def test_a_profiles_intervals_cover_its_means():
    found = drift.profile(planted(-1.0))
    visual = found.kl[:, 0]
    assert (found.low[:, 0] <= visual).all()
    assert (visual <= found.high[:, 0]).all()
    assert (np.diff(visual.mean(0)) < 0).all()
    assert np.isnan(found.kl[:, 1]).all()


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


def test_changes_are_ranked_by_kind():
    counts = Counter({("visual", 1, 2): 3, ("visual", 4, 5): 7, ("text", 1, 2): 9})
    assert list(drift.top_changes(counts, "visual")) == [(4, 5, 7), (1, 2, 3)]
    assert list(drift.top_changes(counts, "text", 1)) == [(1, 2, 9)]
