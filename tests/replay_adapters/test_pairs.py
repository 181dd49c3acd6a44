from pathlib import Path

import pytest
import yaml

from replay_adapters.options import resolve
from replay_adapters.pairs import pair_names, read_pair
from replay_adapters.resources import resource
from replay_core import UsageError


@pytest.mark.parametrize("name", pair_names())
def test_every_shipped_pair_resolves_to_valid_settings(name):
    settings = resolve({"pair": name})
    assert settings.pair.name == name
    assert settings.pair.policy != settings.pair.base
    assert settings.pair.notes


def test_an_unknown_pair_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'mm_eureka_7b'"):
        read_pair("mm_eureka7b")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("policy: [", "is not YAML"),
        ("- a\n- b\n", "holds list, not a mapping"),
        ("policy: a\n", "base is missing"),
        ("policy: a\nbase: b\nsuffix: c\n", "suffix is not known (allowed: name, display, policy"),
        ("policy: a\nbase: b\nprotocol: {min_pixels: -1}\n", "protocol"),
        ("policy: a\nbase: b\nprotocol: {question_template: Why}\n", "0 times {Question} instead"),
        (
            "policy: a\nbase: b\nprotocol: {question_type: x, type_suffixes: {y: z}}\n",
            "question_type=x has no suffix (allowed: y)",
        ),
    ],
)
def test_a_malformed_pair_file_is_refused_in_one_sentence(tmp_path, content, told):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_pair(str(file))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_preset_in_a_pair_file_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("policy: a\nbase: b\nreplay: {threshold: 2}\n")
    with pytest.raises(UsageError, match="replay_threshold=2 is not allowed"):
        resolve({"pair": str(file)})


def test_folders_beside_a_pair_file_are_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "rl").mkdir()
    (tmp_path / "mine.yaml").write_text("policy: rl\nbase: hub/model\n")
    monkeypatch.chdir("/")
    pair = read_pair(str(tmp_path / "mine.yaml"))
    assert Path(pair.policy) == tmp_path / "rl"
    assert pair.base == "hub/model"


def test_published_replay_settings_are_those_of_the_paper():
    published = {"mm_eureka_7b": 16, "vl_rethinker_7b": 24, "mmr1_math_7b": 16}
    for name, layers in published.items():
        config = resolve({"pair": name}).config
        assert (config.layers, config.threshold, config.step_size, config.steps) == (
            layers,
            0.4,
            10,
            25,
        )


def test_pair_files_hold_nothing_that_needs_a_loader_of_python_objects():
    for path in (resource("configs") / "pairs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
