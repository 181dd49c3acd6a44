"""Direct injection against whole passes with plain hooks, and what it must leave alone."""

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from replay_core import Pair, ReplayConfig, Steered, UsageError, make_pair
from replay_core.answer import records_of
from replay_core.config import RELEASE_THRESHOLDS
from replay_core.errors import ReplayError
from replay_core.injection import Edit
from replay_core.model.anatomy import anatomy_of
from tests.replay_core.helpers import (
    Loaded,
    greedy,
    hooked,
    outcomes,
    same_answer,
    state_of,
    told,
)
from tests.support import injection_oracle as oracle

LAYERS = (0, 2, 3)
FIXED = {0: 2.0, 2: 3.0, 3: 3.2}


def inject(boundary: str = "aligned", **changes: Any) -> ReplayConfig:
    settings = {"layers": LAYERS, "threshold": 0.7, "thresholds": "dynamic", "positions": "visual"}
    return ReplayConfig(method="inject", boundary=boundary, **{**settings, **changes})


def expected(
    loaded: Loaded, inputs: Any, config: ReplayConfig, tokens: int = 5
) -> tuple[torch.Tensor, list[torch.Tensor], dict[int, torch.Tensor]]:
    base, policy = oracle.look(loaded.base, inputs), oracle.look(loaded.policy, inputs)
    visual = inputs["mm_token_type_ids"][0] > 0
    where = oracle.masks(
        base,
        policy,
        visual if config.positions == "visual" else torch.ones_like(visual),
        boundary=config.boundary,
        layers=LAYERS,
        select=config.select,
        threshold=config.threshold,
        fixed=config.fixed_thresholds,
    )
    with oracle.overwritten(loaded.policy, base, where, config.boundary):
        ids, logits = oracle.answer(loaded.policy, inputs, tokens)
    return ids, logits, where


@pytest.mark.parametrize("thresholds", ["dynamic", FIXED], ids=["dynamic", "fixed"])
@pytest.mark.parametrize("positions", ["visual", "input"])
@pytest.mark.parametrize("select", ["low", "high", "all"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_answers_are_those_of_whole_passes_with_plain_hooks(
    loaded: Loaded, boundary: str, select: str, positions: str, thresholds: Any
) -> None:
    inputs = loaded.batch("two_images")
    config = inject(boundary, select=select, positions=positions, thresholds=thresholds)
    ids, logits, where = expected(loaded, inputs, config)
    steered = Steered(loaded.pair, config)
    result = steered.optimise(inputs)
    output = steered.decode(inputs, result, **told(max_new_tokens=5))
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == ids.tolist()
    for ours, theirs in zip(output.logits, logits, strict=True):
        torch.testing.assert_close(ours[0].float(), theirs, atol=1e-4, rtol=1e-4)
    (sample,) = result.samples
    candidates = where[0].numel() if positions == "input" else sample.visual_tokens
    shares = {layer: int(mask.sum()) / candidates for layer, mask in where.items()}
    assert dict(sample.masked_fraction) == pytest.approx(shares)
    assert (sample.outcome.value == "empty_mask") == (not any(shares.values()))


def test_the_oracle_sees_an_effect(one: Loaded) -> None:
    inputs = one.batch("two_images")
    _, plain = oracle.answer(one.policy, inputs, 1)
    for boundary in ("aligned", "reference"):
        _, edited, _ = expected(one, inputs, inject(boundary), 1)
        assert (edited[0] - plain[0]).abs().max() > 1e-2


def test_reference_needs_the_base_below_the_policy(one: Loaded) -> None:
    inputs = one.batch("two_images")
    wide = dict.fromkeys(LAYERS, 100.0)
    aligned = Steered(one.pair, inject(thresholds=wide)).optimise(inputs)
    reference = Steered(one.pair, inject("reference", thresholds=wide)).optimise(inputs)
    assert set(dict(aligned.samples[0].masked_fraction).values()) == {1.0}
    assert all(0 < share < 1 for _, share in reference.samples[0].masked_fraction)


def test_the_release_is_what_reference_injection_does_by_default() -> None:
    config = ReplayConfig(method="inject", boundary="reference")
    assert config.layer_indices(28) == tuple(range(7))
    assert (config.positions, config.fixed_thresholds) == ("input", RELEASE_THRESHOLDS)
    assert ReplayConfig(method="inject", boundary="reference", positions="visual").layers == 7
    assert ReplayConfig(method="inject").layer_indices(28) == tuple(range(16))


def test_layers_without_a_fixed_threshold_are_refused() -> None:
    assert ReplayConfig(thresholds="release").layer_indices(28) == tuple(range(14))
    with pytest.raises(UsageError, match=r"includes \[14, 15\], for which thresholds=release has"):
        ReplayConfig(thresholds="release", layers=16).layer_indices(28)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_rows_of_a_batch_are_their_singles(loaded: Loaded, boundary: str, side: Any) -> None:
    batch, singles = loaded.batch("mixed", side), loaded.singles("mixed")
    steered = Steered(loaded.pair, inject(boundary))
    output = steered.decode(batch, steered.optimise(batch), **told())
    assert outcomes(steered.optimise(batch)) == ["applied", "no_visual_tokens", "applied"]
    for row, single in enumerate(singles):
        alone = steered.decode(single, steered.optimise(single), **told())
        length = single["input_ids"].shape[1]
        steps = alone.sequences.shape[1] - length
        assert output.sequences[row, -len(output.logits) :][:steps].tolist() == (
            alone.sequences[0, length:].tolist()
        )
        torch.testing.assert_close(output.logits[0][row], alone.logits[0][0], atol=1e-4, rtol=1e-4)


def test_text_is_edited_where_all_positions_are_candidates(one: Loaded) -> None:
    steered = Steered(one.pair, inject(positions="input"))
    assert outcomes(steered.optimise(one.batch("mixed"))) == 3 * ["applied"]
    text = one.singles("mixed")[1]
    text.pop("pixel_values", None)
    result = steered.optimise(text)
    assert outcomes(result) == ["applied"]
    ids, logits, _ = expected(one, text, steered.config)
    output = steered.decode(text, result, **told(max_new_tokens=5))
    torch.testing.assert_close(output.logits[0][0].float(), logits[0], atol=1e-4, rtol=1e-4)
    assert output.sequences[0, -5:].tolist() == ids.tolist()


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_a_model_injected_into_itself_answers_as_it_is(either: Loaded, boundary: str) -> None:
    inputs = either.batch("mixed")
    pair = make_pair(either.policy, either.policy)
    config = inject(boundary, select="all")
    steered = Steered(pair, config)
    result = steered.optimise(inputs)
    plain = either.policy.generate(**inputs, **told())
    assert outcomes(result) == ["no_drift", "no_visual_tokens", "no_drift"]
    assert same_answer(steered.decode(inputs, result, **told()), plain)


def test_an_empty_mask_leaves_the_plain_answer(one: Loaded) -> None:
    inputs = one.batch("mixed")
    steered = Steered(one.pair, inject(thresholds=dict.fromkeys(LAYERS, 1e-6)))
    result = steered.optimise(inputs)
    assert outcomes(result) == ["empty_mask", "no_visual_tokens", "empty_mask"]
    plain = one.policy.generate(**inputs, **told())
    assert same_answer(steered.decode(inputs, result, **told()), plain)


def test_a_base_that_is_not_finite_is_not_injected(one: Loaded) -> None:
    base, inputs = deepcopy(one.base), one.batch("one_image")
    base.get_decoder().layers[0].mlp.down_proj.weight.data.fill_(math.nan)
    steered = Steered(replace(one.pair, base=anatomy_of(base)), inject(select="all"))
    result = steered.optimise(inputs)
    assert outcomes(result) == ["non_finite"]
    plain = one.policy.generate(**inputs, **told())
    assert same_answer(steered.decode(inputs, result, **told()), plain)
    with pytest.raises(ReplayError, match="non_finite"):
        Steered(steered.pair, inject(select="all", strict=True)).optimise(inputs)


def test_swapping_the_pair_changes_the_answer(one: Loaded) -> None:
    inputs = one.batch("one_image")
    logits = []
    for pair in (one.pair, one.swapped()):
        steered = Steered(pair, inject(select="all"))
        logits.append(steered.decode(inputs, steered.optimise(inputs), **told()).logits[0])
    assert not torch.allclose(*logits, atol=1e-2)


@pytest.mark.parametrize("more", [{"num_return_sequences": 3, "do_sample": True}, {"num_beams": 3}])
def test_copies_of_a_prompt_are_edited_alike(one: Loaded, more: dict[str, Any]) -> None:
    inputs = one.batch("mixed")
    steered = Steered(one.pair, inject(select="all"))
    result = steered.optimise(inputs)
    single = steered.decode(inputs, result, **told()).logits[0]
    copies = steered.decode(inputs, result, **{**told(), **more}).logits[0]
    torch.testing.assert_close(copies, single.repeat_interleave(3, 0), atol=1e-4, rtol=1e-4)


def test_score_is_the_log_probability_of_what_is_decoded(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, inject())
    result = steered.optimise(inputs)
    output = steered.decode(inputs, result, **told(min_new_tokens=6))
    new = output.sequences[:, -6:]
    logits = torch.stack(output.logits, 1).float().log_softmax(-1)
    expected = logits.gather(-1, new.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(steered.score(inputs, result, new), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_models_are_left_as_found(one: Loaded, boundary: str) -> None:
    inputs, models = one.batch("mixed"), (one.policy, one.base)
    before = state_of(*models)
    plain = one.policy.generate(**inputs, **told())
    steered = Steered(one.pair, inject(boundary))
    steered.generate(**inputs, **greedy())
    assert state_of(*models) == before
    assert same_answer(one.policy.generate(**inputs, **told()), plain)
    result = steered.optimise(inputs)
    with (
        pytest.raises(ReplayError, match="needs prompts of 3 rows"),
        result.injection.into(one.pair.policy),
    ):
        one.policy(**one.batch("one_image"))
    assert state_of(*models) == before


def test_an_edit_that_is_never_reached_is_an_error(one: Loaded) -> None:
    steered = Steered(one.pair, inject())
    result = steered.optimise(one.batch("one_image"))
    assert result.injection is not None
    with (
        pytest.raises(ReplayError, match=r"did not reach layers \[0, 2, 3\]"),
        result.injection.into(one.pair.policy),
    ):
        pass


def test_the_records_say_what_was_overwritten(one: Loaded) -> None:
    inputs = one.batch("mixed")
    steered = Steered(one.pair, inject())
    record, text, _ = records_of(steered, steered.optimise(inputs))
    assert (record.method, record.outcome.value) == ("inject", "applied")
    assert 0 < record.changed_fraction <= 1
    assert record.delta_norm > 0
    assert record.feature_norm > 0
    assert set(record.masked_fraction) == set(LAYERS)
    assert (text.outcome.value, text.delta_norm) == ("no_visual_tokens", 0)


def test_values_land_in_every_copy_of_their_row() -> None:
    edit = Edit(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([[1.0], [2.0]]))
    edited = edit.into(torch.zeros(4, 3, 1), 2)[..., 0]
    assert edited.tolist() == [[0, 0, 1], [0, 0, 1], [2, 0, 0], [2, 0, 0]]


@pytest.mark.parametrize("select", ["matched_low", "matched_high", "matched_random"])
def test_matched_arms_have_equally_many_positions(one: Loaded, select: str) -> None:
    inputs = one.batch("two_images")
    low = Steered(one.pair, inject()).optimise(inputs)
    high = Steered(one.pair, inject(select="high")).optimise(inputs)
    found = Steered(one.pair, inject(select=select)).optimise(inputs)
    smaller = [
        min(a, b)
        for (_, a), (_, b) in zip(
            low.samples[0].masked_fraction, high.samples[0].masked_fraction, strict=True
        )
    ]
    assert [share for _, share in found.samples[0].masked_fraction] == pytest.approx(smaller)


def without_cache(loaded: Loaded) -> Pair:
    """Return the pair with a policy whose configuration has no cache, as RL exports have."""
    policy = deepcopy(loaded.policy)
    policy.generation_config.use_cache = False
    policy.config.get_text_config().use_cache = False
    return make_pair(policy, loaded.base)


@pytest.mark.parametrize("said", ["argument", "configuration"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_answers_without_a_cache_are_those_of_whole_passes(
    loaded: Loaded, boundary: str, said: str
) -> None:
    inputs = loaded.batch("two_images")
    config = inject(boundary, select="all")
    ids, logits, _ = expected(loaded, inputs, config)
    steered = Steered(without_cache(loaded) if said == "configuration" else loaded.pair, config)
    how = {"use_cache": False} if said == "argument" else {}
    lengths: list[int] = []
    hook = steered.pair.policy.layers[0].register_forward_hook(
        lambda module, args, output: lengths.append(output.shape[1])
    )
    result = steered.optimise(inputs)
    lengths.clear()
    with hooked([hook]):
        output = steered.decode(inputs, result, **told(max_new_tokens=5), **how)
    prompt = inputs["input_ids"].shape[1]
    assert lengths == [prompt + step for step in range(5)]  # there is no cache, indeed
    assert output.sequences[0, prompt:].tolist() == ids.tolist()
    for ours, theirs in zip(output.logits, logits, strict=True):
        torch.testing.assert_close(ours[0].float(), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("more", [{"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_beams_of_a_padded_batch_answer_alike_without_a_cache(
    one: Loaded, more: dict[str, Any]
) -> None:
    inputs = one.batch("mixed", "right")
    steered = Steered(one.pair, inject(select="all"))
    result = steered.optimise(inputs)
    with_cache, without = (
        steered.decode(inputs, result, **greedy(**more), use_cache=cached)
        for cached in (True, False)
    )
    assert torch.equal(without, with_cache)


def test_a_prompt_of_one_token_is_edited_once(one: Loaded) -> None:
    # Every later pass has the prompt's length, but reads an answer's token.
    inputs = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.ones(1, 1).long()}
    inputs["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    config = inject(select="all", positions="input")
    ids, logits, _ = expected(one, inputs, config)
    steered = Steered(one.pair, config)
    output = steered.decode(inputs, steered.optimise(inputs), **told(max_new_tokens=5))
    assert output.sequences[0, 1:].tolist() == ids.tolist()
    torch.testing.assert_close(output.logits[-1][0].float(), logits[-1], atol=1e-4, rtol=1e-4)
