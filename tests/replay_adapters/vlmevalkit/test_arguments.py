"""Arguments of a model, before any weights: what they become, and what is refused."""

import shutil

import pytest

from replay_adapters.vlmevalkit.arguments import parse_options
from replay_adapters.vlmevalkit.planned import plan
from replay_core import UsageError


@pytest.fixture
def given(tiny_pairs):
    pair = tiny_pairs["qwen2_5_vl"]
    return {"model_path": str(pair.policy), "replay_base": str(pair.base)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threshold": 0.2}, "threshold is not an argument of Qwen2VLChatReplay; did you mean"),
        ({"min_pixel": 3136}, "did you mean min_pixels?"),
        ({"presence_penalty": 1.5}, "presence_penalty is not an argument of Qwen2VLChatReplay"),
        ({"replay_treshold": 0.2}, "did you mean replay_threshold?"),
        ({"replay_threshold": 2}, "replay_threshold=2 is not allowed"),
        ({"samples": 0}, "samples=0 is not allowed (allowed: a whole number from 1 to 100,000)"),
        ({"samples": 4}, "samples=4 needs a temperature above 0"),
        ({"samples": 4, "temperature": 0}, "samples=4 needs a temperature above 0"),
        ({"use_vllm": True}, "use_vllm and use_lmdeploy are not possible"),
        ({"replay_journal": "x"}, "replay_journal is for lmms-eval only"),
    ],
)
def test_bad_arguments_are_one_sentence(given, options, told):
    with pytest.raises(UsageError) as error:
        plan({**given, **options})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_refuses_a_checkpoint_of_another_architecture(given):
    with pytest.raises(UsageError, match=r"Qwen3VLChatReplay cannot answer \(allowed: qwen3_vl"):
        plan(given, "Qwen3VLChatReplay")
    assert plan(given).class_name == "Qwen2VLChatReplay"


def test_the_fingerprint_changes_with_whatever_changes_answers(given, tiny_pairs, tmp_path):
    first = plan(given).fingerprint
    assert plan({**given, "device": "cpu"}).fingerprint == first
    changed = [
        {"replay_threshold": 0.2},
        {"replay_steps": 24},
        {"replay_method": "none"},
        {"max_pixels": 50176},
        {"max_new_tokens": 9},
        {"temperature": 0},
        {"dtype": "bfloat16"},
        {"samples": 2, "temperature": 1.0},
        {"samples": 3, "temperature": 1.0},
    ]
    prints = [plan({**given, **options}).fingerprint for options in changed]
    assert len({first, *prints}) == len(changed) + 1
    # Other weights behind the same path.
    moving = shutil.copytree(given["model_path"], tmp_path / "policy")
    before = plan({**given, "model_path": str(moving)}).fingerprint
    shutil.copy(tiny_pairs["qwen2_5_vl"].base / "model.safetensors", moving)
    assert plan({**given, "model_path": str(moving)}).fingerprint != before


def test_a_preset_reaches_the_settings_and_the_same_values_have_the_same_folder(given, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"policy: {given['model_path']}\nbase: {given['replay_base']}\n"
        "presets: {table9: {threshold: 0.3, boundary: reference, layers: 2}}\n"
    )
    named = plan({"pair": str(file), **parse_options("preset=table9")})
    spelt = plan({"pair": str(file), **parse_options("threshold=0.3,boundary=reference,layers=2")})
    assert (named.settings.config.threshold, named.settings.config.boundary) == (0.3, "reference")
    assert named.settings.summary()["preset"] == "table9"
    assert named.fingerprint == spelt.fingerprint != plan({"pair": str(file)}).fingerprint


def test_a_pairs_decoding_stands_behind_what_is_given(tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_5_vl"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"policy: {pair.policy}\nbase: {pair.base}\nprotocol: {{system_prompt: Think.,\n"
        "  max_num_frames: 16, max_pixels: 50176, generation: {max_new_tokens: 30, temperature: 0}}"
    )
    own = plan({"pair": str(file)})
    assert own.greedy
    assert own.harness == {
        "use_custom_prompt": False,
        "max_new_tokens": 30,
        "max_pixels": 50176,
        "nframe": 16,
        "system_prompt": "Think.",
    }
    changed = plan({"pair": str(file), "max_new_tokens": 5, "temperature": 0.5, "nframe": 4})
    assert not changed.greedy
    assert changed.harness["max_new_tokens"] == 5
    assert changed.harness["nframe"] == 4
    sampled = plan({"pair": str(file), "samples": 8, "temperature": 1.0})
    assert not sampled.greedy
    # Upstream's top_k of 1 would make all samples equal.
    assert (sampled.harness["top_k"], sampled.harness["top_p"]) == (0, 1.0)
    assert sampled.harness["do_sample"] is True
    task = plan({"pair": str(file), "replay_protocol": "task"})
    assert "system_prompt" not in task.harness
    assert not task.greedy


def test_options_of_the_command_line():
    assert parse_options(
        "threshold=0.2,layers=[0,2],select=high,max_new_tokens=64,strict=true"
    ) == {
        "replay_threshold": 0.2,
        "replay_layers": "[0,2]",
        "replay_select": "high",
        "max_new_tokens": 64,
        "replay_strict": True,
    }
    for text, told in {
        "threshold": "is not a list of NAME=VALUE",
        "treshold=1": "did you mean threshold?",
        "": "is not a list",
    }.items():
        with pytest.raises(UsageError) as error:
            parse_options(text)
        assert told in str(error.value)
