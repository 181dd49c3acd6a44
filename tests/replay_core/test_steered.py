"""Replay as a drop-in for generate: exactness, manners, answers, scores and the work done."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from replay_core import Pair, ReplayResult, Steered, UsageError, load_pair, make_pair
from replay_core.digest import token_digest
from replay_core.seeds import stable_seed
from tests.replay_core.helpers import (
    Loaded,
    counted,
    gap,
    greedy,
    hooked,
    judge,
    outcomes,
    same_answer,
    stable,
    state_of,
    told,
)
from tests.support import oracle, tiny

SIDES = ("left", "right")


def plain_logits(loaded: Loaded, inputs: Any) -> Tensor:
    with torch.no_grad():
        return loaded.policy(**inputs).logits


def followed(inputs: Any, continuation: Tensor) -> dict[str, Tensor]:
    """Return the prompts with ``continuation`` behind them."""
    tails = {
        "input_ids": continuation,
        "attention_mask": torch.ones_like(continuation),
        "mm_token_type_ids": torch.zeros_like(continuation),
    }
    longer = {name: torch.cat([inputs[name], tail], 1) for name, tail in tails.items()}
    return {**inputs, **longer}


def some_ids(rows: int, length: int = 4) -> Tensor:
    return torch.randint(5, 300, (rows, length), generator=torch.Generator().manual_seed(0))


# --- zero steps are the plain policy ------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_zero_steps_are_the_plain_policy_bitwise(either: Loaded, boundary: str, side: Any) -> None:
    steered = Steered(either.pair, stable(boundary, steps=0))
    expected = either.policy.generate(**either.batch("mixed"), **told())
    assert same_answer(steered.generate(**either.batch("mixed", side), **told()), expected)


@pytest.mark.parametrize("name", ["one_image", "video"])
def test_zero_steps_answer_a_single_prompt_bitwise(either: Loaded, name: str) -> None:
    inputs = either.batch(name)
    steered = Steered(either.pair, stable(steps=0, positions="input"))
    expected = either.policy.generate(**inputs, **told())
    assert same_answer(steered.generate(**inputs, **told()), expected)


@pytest.mark.parametrize("how", [{"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}])
def test_zero_steps_answer_bitwise_with_beams_and_samples(either: Loaded, how: Any) -> None:
    inputs = either.batch("mixed")
    answers = []
    for generate in (either.policy.generate, Steered(either.pair, stable(steps=0)).generate):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            answers.append(generate(**inputs, **{**told(), **how}))
    assert same_answer(*answers)


@pytest.mark.parametrize("side", SIDES)
def test_zero_steps_score_as_the_plain_policy_bitwise(either: Loaded, side: Any) -> None:
    steered = Steered(either.pair, stable(steps=0))
    inputs, ids = either.batch("mixed"), some_ids(3)
    given_inputs = either.batch("mixed", side)
    scores = steered.score(given_inputs, steered.optimise(given_inputs), ids)
    logits = plain_logits(either, followed(inputs, ids))[:, -5:-1].float()
    expected = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)


@pytest.mark.parametrize("method", ["none", "base"])
def test_without_replay_the_model_itself_answers(either: Loaded, method: Any) -> None:
    inputs = either.batch("mixed", "right")
    model = either.base if method == "base" else either.policy
    answer = Steered(either.pair, stable(method=method)).generate(**inputs, **told())
    assert same_answer(answer, model.generate(**inputs, **told()))


@pytest.mark.parametrize("side", SIDES)
def test_without_replay_scores_are_the_policys(loaded: Loaded, side: Any) -> None:
    ids = some_ids(3)
    none, zero = Steered(loaded.pair, stable(method="none")), Steered(loaded.pair, stable(steps=0))
    inputs = loaded.batch("mixed", side)
    expected = zero.score(inputs, zero.optimise(inputs), ids)
    actual = none.score(inputs, none.optimise(inputs), ids)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_base_arm_scores_with_the_base(one: Loaded) -> None:
    inputs, ids = one.batch("one_image"), some_ids(1)
    steered = Steered(one.pair, stable(method="base"))
    with torch.no_grad():
        logits = one.base(**followed(inputs, ids)).logits[:, -5:-1]
    expected = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    torch.testing.assert_close(steered.score(inputs, steered.optimise(inputs), ids), expected)


def test_text_alone_is_answered_by_the_plain_policy(either: Loaded) -> None:
    inputs = either.singles("mixed")[1]
    answer = Steered(either.pair, stable()).generate(**inputs, **told())
    assert same_answer(answer, either.policy.generate(**inputs, **told()))


def test_a_self_pair_answers_as_its_policy(either: Loaded) -> None:
    inputs = either.batch("mixed")
    steered = Steered(make_pair(either.policy, either.policy), stable())
    assert outcomes(steered.optimise(inputs))[0] == "no_drift"
    expected = either.policy.generate(**inputs, **told())
    assert same_answer(steered.generate(**inputs, **told()), expected)


# --- x reaches the answer -----------------------------------------------------------------------


def test_x_reaches_the_logits_as_the_oracle_says(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed", "right")
    steered = Steered(loaded.pair, stable(steps=4))
    answer = steered.decode(inputs, steered.optimise(inputs), **told())
    for row in (0, 2):
        single = loaded.singles("mixed")[row]
        expected = judge(loaded, single, steered.config)
        logits = oracle.oracle_logits(loaded.policy, single, expected.delta)[0, -1]
        assert gap(answer.logits[0][row], logits) < 1e-4
        assert gap(plain_logits(loaded, single)[0, -1], logits) > 1e-2


def test_a_greedy_answer_is_the_oracles_token_by_token(loaded: Loaded) -> None:
    inputs = loaded.batch("two_images")
    steered = Steered(loaded.pair, stable(steps=4))
    answer = steered.generate(**inputs, **greedy(min_new_tokens=6))
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(answer[:, :prompt], inputs["input_ids"])
    delta = judge(loaded, inputs, steered.config).delta
    told_so_far = followed(inputs, answer[:, prompt:])
    logits = oracle.oracle_logits(loaded.policy, told_so_far, delta)[0, prompt - 1 : -1]
    logits[:, loaded.policy.generation_config.eos_token_id] = -torch.inf
    assert torch.equal(logits.argmax(-1), answer[0, prompt:])


def test_x_is_in_place_in_every_pass_without_a_cache(loaded: Loaded) -> None:
    inputs = loaded.batch("two_images")
    steered = Steered(loaded.pair, stable(steps=4))
    result = steered.optimise(inputs)
    answer = steered.decode(inputs, result, **told(min_new_tokens=6), use_cache=False)
    prompt = inputs["input_ids"].shape[1]
    delta = judge(loaded, inputs, steered.config).delta
    told_so_far = followed(inputs, answer.sequences[:, prompt:])
    expected = oracle.oracle_logits(loaded.policy, told_so_far, delta)[0, prompt - 1 : -1]
    for ours, theirs in zip(answer.logits, expected, strict=True):
        torch.testing.assert_close(ours[0], theirs, atol=1e-3, rtol=1e-3)
    assert torch.equal(answer.sequences, steered.decode(inputs, result, **greedy(min_new_tokens=6)))


@pytest.mark.parametrize("side", SIDES)
def test_scores_are_those_of_the_oracles_logits(loaded: Loaded, side: Any) -> None:
    inputs, ids = loaded.batch("mixed", side), some_ids(3)
    steered = Steered(loaded.pair, stable(steps=4))
    scores = steered.score(inputs, steered.optimise(inputs), ids)
    assert scores.shape == (3, 4)
    for row in (0, 2):
        single = loaded.singles("mixed")[row]
        delta = judge(loaded, single, steered.config).delta
        longer = followed(single, ids[row : row + 1])
        logits = oracle.oracle_logits(loaded.policy, longer, delta)[0, -5:-1]
        expected = logits.log_softmax(-1)[torch.arange(4), ids[row]]
        torch.testing.assert_close(scores[row], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "how", [{}, {"do_sample": True}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_one_result_answers_twice_the_same(loaded: Loaded, how: Any) -> None:
    # generate() changes the encoder outputs that it is given.
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, stable(steps=2))
    result = steered.optimise(inputs)
    kept = result.delta.clone()
    answers = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            answers.append(steered.decode(inputs, result, **{**told(), **how}))
    assert same_answer(*answers)
    assert len(answers[0].sequences) == 3 * how.get("num_return_sequences", 1)
    assert torch.equal(result.delta, kept)


def test_generate_is_optimise_and_decode_in_a_row(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, stable(steps=2))
    expected = steered.decode(inputs, steered.optimise(inputs), **told())
    assert same_answer(steered.generate(**inputs, **told()), expected)


def test_the_rows_of_a_batch_answer_as_if_alone(loaded: Loaded) -> None:
    steered = Steered(loaded.pair, stable(steps=4))
    inputs = loaded.batch("mixed")
    together = steered.generate(**inputs, **greedy(min_new_tokens=6))[:, -6:]
    for row, single in enumerate(loaded.singles("mixed")):
        alone = steered.generate(**single, **greedy(min_new_tokens=6))[:, -6:]
        assert torch.equal(together[row : row + 1], alone)


def test_a_prompt_without_a_mask_is_taken_whole(one: Loaded) -> None:
    inputs = dict(one.batch("one_image"))
    steered = Steered(one.pair, stable(steps=2))
    expected = steered.optimise(inputs)
    del inputs["attention_mask"]
    assert torch.equal(steered.optimise(inputs).delta, expected.delta)


def test_layers_are_checked_before_anything_runs(one: Loaded) -> None:
    with pytest.raises(UsageError, match="the text decoder has 5 layers"):
        Steered(one.pair, stable(layers=[0, 7]))


def test_without_a_config_the_defaults_hold(one: Loaded) -> None:
    assert Steered(one.pair).config.threshold == 0.4
    assert Steered(one.pair).layers == (0, 1)


def test_seeds_follow_from_the_seed_and_the_real_tokens(one: Loaded) -> None:
    left, right = (
        Steered(one.pair, stable(seed=9)).seeds(one.batch("mixed", side)) for side in SIDES
    )
    singles = [single["input_ids"][0] for single in one.singles("mixed")]
    assert left == right == [stable_seed(9, token_digest(ids)) for ids in singles]
    assert left != Steered(one.pair, stable(seed=8)).seeds(one.batch("mixed"))


# --- the models are left as found ---------------------------------------------------------------


def copies(loaded: Loaded) -> Pair:
    """Return a pair of copies in training mode here and there, some weights wanting gradients."""
    policy, base = deepcopy(loaded.policy), deepcopy(loaded.base)
    for model in (policy, base):
        for number, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(number % 3 == 0)
        model.model.visual.train()
        model.model.visual.blocks[0].eval()
        model.get_decoder().layers[1].train()
    return make_pair(policy, base)


def whole_way(steered: Steered, inputs: Any) -> ReplayResult:
    result = steered.optimise(inputs)
    steered.decode(inputs, result, **greedy(max_new_tokens=2))
    steered.score(inputs, result, some_ids(len(inputs["input_ids"]), 2))
    steered.generate(**inputs, **greedy(max_new_tokens=2))
    steered.targets(inputs)
    return result


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_models_are_left_as_found(loaded: Loaded, mode: Any) -> None:
    pair, inputs = copies(loaded), loaded.batch("mixed")
    models = (pair.policy.model, pair.base.model)
    before = state_of(*models)
    with torch.no_grad():
        outputs = [model(**inputs).logits for model in models]
    expected = Steered(pair, stable(steps=2)).optimise(inputs)
    with mode():
        # Made inside: tensors of inference mode must be taken, too.
        result = whole_way(Steered(pair, stable(steps=2)), loaded.batch("mixed"))
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert outcomes(result)[0] == "applied"
    assert torch.equal(result.delta, expected.delta)
    assert state_of(*models) == before
    with torch.no_grad():
        for model, logits in zip(models, outputs, strict=True):
            assert torch.equal(model(**inputs).logits, logits)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("which", ["policy", "base"])
def test_models_are_left_as_found_after_an_exception(
    loaded: Loaded, which: str, layer: int
) -> None:
    pair, inputs = copies(loaded), loaded.batch("mixed")
    before = state_of(pair.policy.model, pair.base.model)

    def broken(module: Any, args: Any, output: Any) -> None:
        raise ZeroDivisionError

    hook = getattr(pair, which).layers[layer].register_forward_hook(broken)
    with hooked([hook]), pytest.raises(ZeroDivisionError):
        Steered(pair, stable(steps=2)).generate(**inputs, **greedy())
    assert state_of(pair.policy.model, pair.base.model) == before


def test_models_in_training_mode_are_read_without_dropout(loaded: Loaded) -> None:
    pair, inputs, ids = copies(loaded), loaded.batch("mixed"), some_ids(3)
    for anatomy in (pair.policy, pair.base):
        anatomy.model.train()
        for layer in anatomy.layers:
            layer.self_attn.attention_dropout = 0.5
    plain, steered = Steered(loaded.pair, stable(steps=2)), Steered(pair, stable(steps=2))
    result, expected = steered.optimise(inputs), plain.optimise(inputs)
    assert torch.equal(result.delta, expected.delta)
    scores, right = steered.score(inputs, result, ids), plain.score(inputs, expected, ids)
    assert torch.equal(scores, right)
    made, wanted = steered.targets(inputs).entropies, plain.targets(inputs).entropies
    assert all(torch.equal(made[layer], wanted[layer]) for layer in wanted)


def test_inputs_are_left_as_found(one: Loaded) -> None:
    inputs = one.batch("mixed", "right")
    before = {name: value.clone() for name, value in inputs.items()}
    whole_way(Steered(one.pair, stable(steps=2)), inputs)
    assert inputs.keys() == before.keys()
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


# --- the work that is done ----------------------------------------------------------------------


def parts(pair: Pair) -> dict[str, Any]:
    modules: dict[str, Any] = {}
    for who, anatomy in (("policy", pair.policy), ("base", pair.base)):
        modules[f"{who}_vision"] = anatomy.model.model.visual
        modules[f"{who}_decoder"] = anatomy.decoder
        modules[f"{who}_head"] = anatomy.head
        modules |= {f"{who}_{n}": layer for n, layer in enumerate(anatomy.layers)}
    return modules


@pytest.mark.parametrize("name", ["one_image", "mixed"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_only_what_is_needed_runs(loaded: Loaded, boundary: str, name: str) -> None:
    inputs = loaded.batch(name)
    columns = (inputs["mm_token_type_ids"] > 0).any(0).nonzero()[:, 0]
    first, window = int(columns[0]), int(columns[-1] - columns[0]) + 1
    steered = Steered(loaded.pair, stable(boundary, steps=3))
    with counted(**parts(loaded.pair)) as calls:
        steered.optimise(inputs)
    for who in ("policy", "base"):
        assert len(calls[f"{who}_vision"]) == 1
        assert calls[f"{who}_head"] == []
        assert calls[f"{who}_3"] == calls[f"{who}_4"] == []
    # The prefix once; then the columns from the first to the last visual one. One more of the first
    # layer tells what a layer keeps in memory.
    assert calls["base_0"] == calls["base_2"] == [first, window]
    assert calls["policy_1"] == [first] + 4 * [window]
    assert calls["policy_0"] == [first] + 5 * [window]
    assert first > 0


def test_reference_runs_no_policy_layer_that_it_does_not_read(loaded: Loaded) -> None:
    # Before layer 2 is behind layer 1: layer 2 itself is never needed.
    ran: list[int] = []
    hook = loaded.pair.policy.layers[2].register_forward_hook(lambda *_: ran.append(1))
    with hooked([hook]):
        Steered(loaded.pair, stable("reference", steps=2)).optimise(loaded.batch("one_image"))
    assert ran == []


def test_equal_towers_run_once_in_all(loaded: Loaded) -> None:
    base = deepcopy(loaded.base)
    base.model.visual.load_state_dict(loaded.policy.model.visual.state_dict())
    pair = make_pair(loaded.policy, base)
    inputs = loaded.batch("two_images")
    with counted(**parts(pair)) as calls:
        result = Steered(pair, stable(steps=2)).optimise(inputs)
    assert len(calls["policy_vision"]) + len(calls["base_vision"]) == 1
    slow = oracle.oracle_replay(
        loaded.policy,
        base,
        inputs,
        boundary="aligned",
        top_k=50,
        **{**vars(tiny.STABLE["aligned"]), "steps": 2},
    )
    assert gap(result.delta, slow.delta) < 1e-4


def test_answering_does_not_run_the_tower_again(loaded: Loaded) -> None:
    with counted(**parts(loaded.pair)) as calls:
        Steered(loaded.pair, stable(steps=1)).generate(**loaded.batch("mixed"), **greedy())
    assert len(calls["policy_vision"]) == len(calls["base_vision"]) == 1


def test_given_targets_spare_the_base(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, stable(steps=1))
    targets = steered.targets(inputs)
    with counted(**parts(loaded.pair)) as calls:
        steered.optimise(inputs, targets=targets)
    assert not any(calls[name] for name in calls if name.startswith("base_"))


def test_candidates_of_the_whole_prompt_need_the_whole_window(one: Loaded) -> None:
    inputs = one.batch("mixed")
    steered = Steered(one.pair, stable(steps=1, positions="input"))
    with counted(**parts(one.pair)) as calls:
        steered.optimise(inputs)
    assert calls["policy_1"] == 2 * [inputs["input_ids"].shape[1]]


def test_no_weight_receives_a_gradient(loaded: Loaded) -> None:
    pair = copies(loaded)
    Steered(pair, stable(steps=2)).optimise(loaded.batch("one_image"))
    for anatomy in (pair.policy, pair.base):
        assert all(parameter.grad is None for parameter in anatomy.model.parameters())


def test_a_trimmed_base_is_enough(loaded: Loaded) -> None:
    base = deepcopy(loaded.base)
    pair = make_pair(loaded.policy, base)
    inputs, steered = loaded.batch("mixed"), Steered(pair, stable(steps=2))
    expected = steered.optimise(inputs)
    del base.get_decoder().layers[3:]
    assert torch.equal(steered.optimise(inputs).delta, expected.delta)


# --- arguments ----------------------------------------------------------------------


def test_a_base_with_too_few_layers_is_refused_at_once(one: Loaded) -> None:
    trimmed = load_pair(one.folders.policy, one.folders.base, base_layers=2)
    Steered(trimmed, stable(layers=2))
    Steered(trimmed, stable(method="none"))
    with pytest.raises(UsageError, match="loaded with base_layers=2, but this run needs 3 of its"):
        Steered(trimmed, stable(layers=3))
    with pytest.raises(UsageError, match="needs 5 of its layers"):
        Steered(trimmed, stable(method="base", layers=2))


@pytest.mark.parametrize("seeds", [[], [1, 2], [1, 2, 3, 4]])
@pytest.mark.parametrize(
    "how",
    [
        {"select": "random"},
        {"select": "matched_random"},
        {"method": "inject", "select": "matched_low"},
        {"method": "none"},
    ],
    ids=lambda how: " ".join(how.values()),
)
def test_another_number_of_seeds_than_samples_is_refused(
    one: Loaded, how: dict[str, Any], seeds: list[int]
) -> None:
    inputs, steered = one.batch("mixed"), Steered(one.pair, stable(steps=1, **how))
    told_so = f"^{len(seeds)} seeds came for a batch of 3 samples"
    with counted(**parts(one.pair)) as calls:
        for ask in (steered.optimise, steered.targets):
            with pytest.raises(UsageError, match=told_so):
                ask(inputs, seeds=seeds)
    assert not any(calls.values())  # before anything runs


@pytest.mark.parametrize("method", ["replay", "inject"])
@pytest.mark.parametrize("positions", ["visual", "input"])
def test_precomputed_features_in_place_of_pixels_are_refused(
    one: Loaded, method: Any, positions: Any
) -> None:
    inputs = dict(one.batch("one_image"))
    steered = Steered(one.pair, stable(method=method, positions=positions))
    seen = steered.optimise(inputs).features
    assert seen is not None
    del inputs["pixel_values"]
    with pytest.raises(UsageError, match="hold 15 image tokens without pixel_values; pass the"):
        steered.generate(**inputs, mm_encoder_outputs=seen.with_features(seen.flat), **greedy())
