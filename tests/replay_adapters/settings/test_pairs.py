import re
from pathlib import Path

import pytest
import yaml

from replay_adapters.settings.options import resolve
from replay_adapters.settings.pairs import pair_names, read_pair
from replay_adapters.settings.resources import resource
from replay_core import ReplayConfig, UsageError


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
        (
            "policy: a\nbase: b\nprotocol: {min_pixels: -1}\n",
            "protocol.min_pixels=-1 is not allowed (allowed: a whole number from 1 on)",
        ),
        (
            "policy: a\nbase: b\nprotocol: {answer: {tags: b}}\n",
            "protocol.answer.tags is not known (allowed: tag, pattern, boxed)",
        ),
        (
            "policy: a\nbase: b\nprotocol: {question_template: Why}\n",
            "protocol.question_template=Why is not allowed (allowed: a text with {Question} in it",
        ),
        ("policy: a\npolicy: b\n", "policy stands twice in line 2"),
        ("policy: &a [x]\nbase: *a\n", "*a is an alias (allowed: values written out) in line 2"),
        ("policy: &a [*a]\n", "*a is an alias"),
        ("policy: " + "[" * 5000, "nested deeper than 16 levels"),
        (f"policy: a\nbase: b\ndtype: {'x' * 9999}\n", "x… (9999 characters)"),
        (f"policy: a\nbase: b\n#{'x' * 70_000}\n", "has 70020 bytes (allowed: at most 65536)"),
        ("policy: a\nbase: b\nsources: {rl_start: card}\n", "sources.rl_start is of a field that"),
        ("policy: a\nbase: b\nunknown: [base]\n", "unknown names base, which is given"),
        (
            "policy: a\nbase: b\npresets: {x: {method: inject}}\n",
            "presets.x has a method, but presets are for replay_method=replay",
        ),
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
    assert len(str(caught.value)) < 600


def test_a_pair_file_that_was_changed_is_read_again(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("policy: a\nbase: b\n")
    assert read_pair(str(file)).policy == "a"
    file.write_text("policy: other\nbase: b\n")
    assert read_pair(str(file)).policy == "other"
    (tmp_path / "other").mkdir()  # beside a file that stays as it is
    assert read_pair(str(file)).policy == str(tmp_path / "other")


def test_a_wrong_preset_in_a_pair_file_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("policy: a\nbase: b\nreplay: {threshold: 2}\n")
    with pytest.raises(UsageError, match=r"replay\.threshold=2 is not allowed"):
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


# Layers, γ, α, steps, pixels: what the paper and its release say of each published row.
QWEN, RETHINKER = (3136, 501760), (256 * 28**2, 1280 * 28**2)
PUBLISHED = {
    ("mm_eureka_7b", "release"): (16, 0.4, 10, 25, *QWEN),
    ("mm_eureka_7b", "table2_mathverse"): (16, 0.2, 40, 25, *QWEN),
    ("mmr1_math_7b", "table2_mathverse"): (16, 0.4, 10, 25, None, None),
    ("vl_rethinker_7b", "release"): (24, 0.4, 10, 25, *RETHINKER),
    ("vl_rethinker_7b_release", "release"): (24, 0.4, 10, 25, *RETHINKER),
}


def test_presets_are_the_published_rows_in_the_releases_reading():
    shipped = {(pair, preset) for pair in pair_names() for preset in read_pair(pair).presets}
    assert shipped == PUBLISHED.keys()
    for (pair, preset), expected in PUBLISHED.items():
        settings = resolve({"pair": pair, "replay_preset": preset})
        config, protocol = settings.config, settings.protocol
        values = (config.layers, config.threshold, config.step_size, config.steps)
        assert (*values, protocol.min_pixels, protocol.max_pixels) == expected
        # Everything else, a preset leaves to the defaults, which the release shares.
        others = {"layers", "threshold", "step_size", "steps", "boundary"}
        assert config.model_dump(exclude=others) == ReplayConfig().model_dump(exclude=others)
        assert (config.boundary, config.top_k) == ("reference", 50)
        assert resolve({"pair": pair}).config.boundary == "aligned"


def test_published_rows_are_decoded_greedily_to_2048_tokens():
    for pair in ("mm_eureka_7b", "mmr1_math_7b", "vl_rethinker_7b_release"):
        assert read_pair(pair).protocol.generation == {"max_new_tokens": 2048, "temperature": 0}


def test_every_number_of_a_shipped_preset_has_its_source_beside_it():
    """A comment on its line, or one that speaks for the lines below it."""
    for pair in {pair for pair, _ in PUBLISHED}:
        text = (resource("configs") / "pairs" / f"{pair}.yaml").read_text("utf-8")
        block = text.split("presets:\n")[1].split("protocol:\n")[0]
        lines = [line for line in block.splitlines() if re.match(r" {4}\w+: ", line)]
        spoken_for = 0
        for line in lines:
            comment = line.partition("#")[2]
            spoken_for = 3 if "as the next three" in comment else spoken_for - 1
            assert comment or spoken_for >= 0, (pair, line)
        assert len(lines) == 6 * len(read_pair(pair).presets)


def test_pair_files_hold_nothing_that_needs_a_loader_of_python_objects():
    for path in (resource("configs") / "pairs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)


# What a harness or a person can only use where it is published.
MAY_BE_UNKNOWN = ("vision_frozen", "replay", "protocol.generation", "protocol.max_pixels")


@pytest.mark.parametrize("name", [name for name in pair_names() if not name.startswith("demo")])
def test_every_value_of_a_published_pair_has_its_source_or_is_said_to_be_unknown(name):
    pair = read_pair(name)
    assert [path for path in pair.given() if not pair.source(path)] == []
    given = set(pair.given()) | {path.partition(".")[0] for path in pair.given()}
    given |= {path.rpartition(".")[0] for path in pair.given()}
    assert [path for path in MAY_BE_UNKNOWN if path not in given | set(pair.unknown)] == []


def test_a_source_speaks_for_the_fields_below_it():
    pair = read_pair("mm_eureka_7b")
    assert "protocol.system_prompt" in pair.given()
    changed = pair.model_copy(update={"sources": {"protocol": "card", "protocol.answer": "own"}})
    assert changed.source("protocol.system_prompt") == "card"
    assert changed.source("protocol.answer.tag") == "own"
    assert changed.source("policy") is None
