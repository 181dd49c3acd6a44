"""Every bad input is one sentence that quotes what was given and what is allowed."""

import json

import pytest
from loguru import logger

from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import resolve
from replay_adapters.settings.pairs import Protocol
from replay_core import ReplayConfig, UsageError
from replay_core.config import START_FORMAT
from replay_core.errors import shown

PAIR = {"pretrained": "me/policy", "replay_base": "me/base"}


@pytest.fixture
def told():
    """What is logged as a warning."""
    lines: list[str] = []
    handle = logger.add(lambda line: lines.append(str(line)), level="WARNING")
    yield lines
    logger.remove(handle)


def refusal(arguments: dict) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("threshold", 0, "replay_threshold=0 is not allowed (allowed: a number above 0, at most 1"),
        ("threshold", 1.5, "replay_threshold=1.5 is not allowed"),
        ("steps", -1, "replay_steps=-1 is not allowed (allowed: a whole number from 0 to 100,000"),
        (
            "select",
            "lo",
            "replay_select=lo is not allowed (allowed: low, high, all, random, matched_low",
        ),
        ("boundary", "after", "allowed: aligned or reference"),
        ("top_k", 1, "allowed: a whole number from 2 on, or full"),
        ("layers", "first", "replay_layers=first is not allowed (allowed: auto, a number"),
        ("layers", "[0,", "replay_layers=[0, is not allowed"),
        ("layers", "[1,1]", "[1, 1] must be distinct"),
        ("step_size", float("inf"), "allowed: a number above 0, at most 1e12"),
        ("method", "reply", "allowed: replay, amortised, inject, none or base"),
        ("protocol", "mine", "replay_protocol=mine is not allowed (allowed: pair or task)"),
        ("journal", True, "replay_journal=true is not allowed (allowed: a file)"),
    ],
)
def test_a_bad_value_is_quoted_with_what_is_allowed(option, value, told):
    assert told in refusal({**PAIR, f"replay_{option}": value})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("treshold", "threshold"), ("stepsize", "step_size"), ("layer", "layers"), ("bas", "base")],
)
def test_a_misspelt_option_names_the_nearest(typed, meant):
    sentence = refusal({**PAIR, f"replay_{typed}": 1})
    assert f"replay_{typed} is not an option; did you mean replay_{meant}?" in sentence


def test_a_policy_without_its_base_is_refused_unless_it_answers_alone():
    assert "replay_base is missing" in refusal({"pretrained": "me/policy"})
    alone = resolve({"pretrained": "me/policy", "replay_method": "none"})
    assert alone.pair.policy == "me/policy"
    assert "needs start=FILE" in refusal({"pretrained": "me/p", "replay_method": "amortised"})


def test_a_base_without_its_policy_is_refused():
    assert "replay_base=me/base needs its policy" in refusal({"replay_base": "me/base"})


def test_an_unknown_dtype_is_refused():
    assert "dtype=fp8 is not allowed" in refusal({**PAIR, "dtype": "fp8"})


def test_every_core_setting_can_be_given_as_an_option(tmp_path):
    header = json.dumps({"__metadata__": {"format": START_FORMAT}}).encode()
    (tmp_path / "map").write_bytes(len(header).to_bytes(8, "little") + header)
    changed = {
        "method": "base",
        "select": "high",
        "boundary": "reference",
        "top_k": "full",
        "positions": "input",
        "maximum": "image",
        "thresholds": "release",
        "step_scaling": "tokens",
        "x": "random",
        "layers": "[0,2]",
        "threshold": 0.2,
        "step_size": 40,
        "steps": 3,
        "optimizer": "lbfgs",
        "tolerance": 0.01,
        "keep": "best",
        "start": str(tmp_path / "map"),
        "checkpointing": "on",
        "cuda_graphs": "off",
        "seed": 7,
        "strict": True,
    }
    assert changed.keys() == ReplayConfig.model_fields.keys()
    for name, value in changed.items():
        config = resolve({**PAIR, f"replay_{name}": value}).config
        found = config.start.path if name == "start" else getattr(config, name)
        expected = (0, 2) if name == "layers" else value
        assert found == expected != getattr(ReplayConfig(), name)


def test_the_command_line_wins_over_the_pair_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "policy: me/p\nbase: me/b\nreplay: {threshold: 0.2, steps: 5}\n"
        "protocol: {min_pixels: 100, max_pixels: 200}\n"
    )
    given = {"pair": str(file), "replay_threshold": 0.3, "max_pixels": 300, "replay_base": "me/c"}
    settings = resolve(given)
    assert (settings.config.threshold, settings.config.steps) == (0.3, 5)
    assert settings.rest == {"min_pixels": 100, "max_pixels": 300}
    assert (settings.pair.policy, settings.pair.base) == ("me/p", "me/c")


def test_the_protocol_is_the_pairs_own_where_it_has_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("policy: p\nbase: b\nprotocol: {system_prompt: Think.}\n")
    assert resolve({"pair": str(file)}).protocol.system_prompt == "Think."
    as_task = resolve({"pair": str(file), "replay_protocol": "task"})
    assert as_task.protocol == Protocol()
    assert resolve(PAIR).protocol_name == "task"


def test_without_a_pair_the_embedded_one_answers_its_own_tasks_only():
    settings = resolve({})
    settings.check_tasks(["replay_demo"])
    with pytest.raises(UsageError, match=r"'mmmu_val' cannot be answered by the embedded pair"):
        settings.check_tasks(["replay_demo", "mmmu_val"])
    resolve(PAIR).check_tasks(["mmmu_val"])


def test_a_bare_question_without_a_prompt_around_it_is_warned_of(told):
    resolve({"pair": "video_r1_7b"}).check_tasks(["video_r1_mmvu_mc"])
    resolve(PAIR).check_tasks(["mmvu_val"])
    assert told == []
    resolve(PAIR).check_tasks(["mmvu_val", "video_r1_mmvu_mc"])
    resolve({"pair": "video_r1_7b", "replay_protocol": "task"}).check_tasks(["video_r1_mlvu_mc"])
    assert ["video_r1_mmvu_mc" in told[0], "video_r1_mlvu_mc" in told[1]] == [True, True]
    assert "asked bare; pair=video_r1_7b brings" in told[0]


def test_arguments_of_the_harness_go_on_untouched():
    settings = resolve({**PAIR, "max_pixels": 5, "system_prompt": "x", "device": None})
    assert settings.rest == {"max_pixels": 5, "system_prompt": "x"}


def test_the_fingerprint_changes_with_every_source_of_settings():
    seen = {
        resolve({**PAIR, **more}).fingerprint()
        for more in (
            {},
            {"replay_threshold": 0.3},
            {"replay_base": "me/other"},
            {"max_pixels": 5},
            {"dtype": "float32"},
        )
    }
    seen.add(resolve(PAIR).fingerprint("new weights"))
    assert len(seen) == 6


PRESETS = """
policy: me/p
base: me/b
replay: {layers: 3, steps: 5, threshold: 0.4}
inject: {layers: 2}
presets:
  table9: {threshold: 0.3, boundary: reference}
  table9_small: {threshold: 0.1, layers: [0, 2]}
"""


@pytest.fixture
def with_presets(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(PRESETS)
    return {"pair": str(file)}


def test_a_preset_is_laid_over_the_pairs_own_and_under_what_is_given(with_presets):
    def chosen(**more):
        config = resolve({**with_presets, **more}).config
        return config.threshold, config.boundary, config.layers, config.steps

    assert chosen() == (0.4, "aligned", 3, 5)
    assert chosen(replay_preset="table9") == (0.3, "reference", 3, 5)
    assert chosen(replay_preset="table9_small") == (0.1, "aligned", (0, 2), 5)
    given = {"replay_threshold": 0.7, "replay_layers": "[1]", "replay_boundary": "aligned"}
    assert chosen(replay_preset="table9", **given) == (0.7, "aligned", (1,), 5)


@pytest.mark.parametrize("method", ["replay", "none", "base"])
def test_both_arms_of_a_comparison_take_the_preset(with_presets, method):
    settings = resolve({**with_presets, "replay_preset": "table9", "replay_method": method})
    assert (settings.config.method, settings.config.threshold) == (method, 0.3)


def test_an_unknown_preset_is_refused_with_the_pairs_own_nearest_first(with_presets):
    for typed, nearest in (
        ("table9_smal", "table9_small, table9"),
        ("tabel9", "table9, table9_small"),
        (9, "table9, table9_small"),
    ):
        told = refusal({**with_presets, "replay_preset": typed})
        assert (
            told == f"replay_preset={typed} is not a preset of the pair mine (allowed: {nearest})"
        )
    for without in ({}, PAIR):
        assert "has no presets" in refusal({**without, "replay_preset": "table9"})


def test_a_preset_is_not_for_an_injection(with_presets):
    told = refusal({**with_presets, "replay_preset": "table9", "replay_method": "inject"})
    assert "replay_preset=table9 does not go with replay_method=inject (allowed: replay" in told


def test_a_presets_values_are_checked_as_if_they_were_typed(tmp_path):
    for preset, told in (
        ("{steps: -2}", "presets.x.steps=-2 is not allowed (allowed: a whole number"),
        ("{treshold: 0.2}", "presets.x.treshold is not known"),
    ):
        file = tmp_path / f"{len(told)}.yaml"
        file.write_text(f"policy: a\nbase: b\npresets: {{x: {preset}}}\n")
        assert told in refusal({"pair": str(file)})


def test_a_preset_is_recorded_by_name_and_fingerprinted_by_its_values(with_presets):
    """So that the same settings, spelt out, are the same run."""
    named = resolve({**with_presets, "replay_preset": "table9"})
    spelt = resolve({**with_presets, "replay_threshold": 0.3, "replay_boundary": "reference"})
    assert named.fingerprint() == spelt.fingerprint() != resolve(with_presets).fingerprint()
    assert named.summary()["preset"] == "table9"
    assert named.summary()["config"]["threshold"] == 0.3
    assert spelt.summary()["preset"] is None
    assert named.resolved() == spelt.resolved()


def test_the_summary_is_plain_json():
    json.dumps(resolve({**PAIR, "device": "cpu"}).summary())


def test_checkpoints_are_checked_before_weights_are_read(tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_5_vl"]
    config = pair.policy / "config.json"
    for folder, change in (("wide", {"hidden_size": 96}), ("words", {"vocab_size": 999})):
        altered = json.loads(config.read_text())
        altered["text_config"].update(change)
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(altered))
        given = {"pretrained": str(pair.policy), "replay_base": str(tmp_path / folder)}
        value = next(iter(change.values()))
        with pytest.raises(UsageError, match=rf"differs \(\d+ and {value}; it must be equal\)"):
            check_checkpoints(resolve(given))
    too_deep = {"pretrained": str(pair.policy), "replay_base": str(pair.base), "replay_layers": 99}
    with pytest.raises(UsageError, match=r"^replay_layers=99 is not possible: .* has 5 layers"):
        check_checkpoints(resolve(too_deep))
    with pytest.raises(UsageError, match="is not a checkpoint that transformers can load"):
        check_checkpoints(resolve({"pretrained": str(tmp_path), "replay_base": str(pair.base)}))


def test_thresholds_are_read_from_a_file(tmp_path):
    path = tmp_path / "thresholds.json"
    path.write_text('{"thresholds": {"0": 1.25, "2": 2.5}, "n": 9}')
    config = resolve({**PAIR, "replay_thresholds": str(path)}).config
    assert config.fixed_thresholds == {0: 1.25, 2: 2.5}
    assert config.layer_indices(28) == (0, 2)


@pytest.mark.parametrize("content", ["[1]", "no json", '{"thresholds": {"a": 1}}', "{}"])
def test_a_file_without_thresholds_is_refused(tmp_path, content):
    path = tmp_path / "thresholds.json"
    path.write_text(content)
    assert f"{shown(path)} holds no entropies per layer" in refusal(
        {**PAIR, "replay_thresholds": str(path)}
    )


def test_a_missing_file_of_thresholds_is_refused():
    text = refusal({**PAIR, "replay_thresholds": "nowhere.json"})
    assert "replay_thresholds=nowhere.json is not allowed (allowed: dynamic, release, or" in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "base_quantization",
            "2bit",
            "replay_base_quantization=2bit is not allowed (allowed: 8bit",
        ),
        ("base_device", "gpu7", "replay_base_device=gpu7 is not allowed (allowed: cpu, cuda"),
    ],
)
def test_where_the_base_is_held_is_checked(option, value, message):
    assert message in refusal({**PAIR, f"replay_{option}": value})
    good = {"base_quantization": "4bit", "base_device": "cuda:1"}[option]
    assert getattr(resolve({**PAIR, f"replay_{option}": good}), option) == good


def test_injection_has_a_preset_of_its_own(tmp_path):
    path = tmp_path / "pair.yaml"
    path.write_text(
        "policy: a/b\nbase: c/d\nreplay: {layers: 16, step_size: 40}\n"
        "inject: {boundary: reference, layers: 5}\n"
    )
    replayed = resolve({"pair": str(path)}).config
    injected = resolve({"pair": str(path), "replay_method": "inject"}).config
    assert (replayed.layers, replayed.step_size) == (16, 40)
    assert (injected.layers, injected.step_size, injected.positions) == (5, 10, "input")
    assert injected.thresholds == "release"
