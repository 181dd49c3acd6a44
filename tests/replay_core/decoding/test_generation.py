"""Settings of generate, resolved as generate resolves them, in vLLM's words."""

import pytest

from replay_core.decoding.generation import sampling_of
from replay_core.faults import RunOver, ends_the_run


@pytest.fixture
def policy(load, monkeypatch):
    model = load("qwen2_5_vl").policy
    monkeypatch.setattr(model.generation_config, "eos_token_id", [368, 366])
    return model


def test_greedy_settings_are_those_of_argmax(policy):
    found = sampling_of(policy, {"max_new_tokens": 7, "do_sample": False, "temperature": None})
    assert (found.limit, found.copies, found.ends) == (7, 1, (368, 366))
    assert found.settings["temperature"] == 0.0
    assert found.settings["stop_token_ids"] == [368, 366]
    assert found.settings["ignore_eos"] is True
    assert "seed" not in found.drawn_with(3)


def test_what_is_not_given_is_the_checkpoints_and_then_transformers_own(policy, monkeypatch):
    monkeypatch.setattr(policy.generation_config, "top_p", 0.8)
    monkeypatch.setattr(policy.generation_config, "repetition_penalty", 1.1)
    found = sampling_of(policy, {"max_new_tokens": 7, "do_sample": True, "temperature": 0.5})
    settings = found.settings
    assert (settings["temperature"], settings["top_p"]) == (0.5, 0.8)
    assert settings["top_k"] == 50  # of transformers, which vLLM does not have
    assert settings["repetition_penalty"] == 1.1
    assert found.drawn_with(3)["seed"] == 3
    assert sampling_of(policy, {"do_sample": True, "top_k": 0}).settings["top_k"] == 0


def test_several_answers_and_stops_are_passed_on(policy):
    given = {"num_return_sequences": 8, "stop_strings": "</a>", "tokenizer": object()}
    found = sampling_of(policy, {"max_new_tokens": 9, "do_sample": True, **given})
    assert found.copies == 8
    assert found.settings["stop"] == ["</a>"]
    assert found.settings["include_stop_str_in_output"] is True


@pytest.mark.parametrize(
    "given",
    [{"num_beams": 2}, {"no_repeat_ngram_size": 3}, {"penalty_alpha": 0.5}, {"sparkle": 1}],
    ids=lambda given: next(iter(given)),
)
def test_what_vllm_does_not_do_ends_the_run(policy, given):
    (name,) = given
    with pytest.raises(RunOver, match=f"{name}=.* is not possible with decode=vllm") as told:
        sampling_of(policy, {"max_new_tokens": 7, **given})
    assert ends_the_run(told.value)


def test_what_both_harnesses_hand_over_is_taken(policy):
    harness = {"eos_token_id": 368, "pad_token_id": 366, "use_cache": True, "num_beams": 1}
    found = sampling_of(policy, {"max_new_tokens": 7, "do_sample": False, "top_p": None, **harness})
    assert (found.ends, found.pad) == ((368,), 366)
