"""The tables of the READMEs have a line for everything that can be asked for."""

import json
import re
from pathlib import Path

import pytest
from lmms_eval.utils import simple_parse_args_string

from replay_adapters.lmms_eval.names import MODEL_NAMES
from replay_adapters.settings import options
from replay_adapters.settings.run_options import ENGINE_OPTIONS, PAIR_OPTIONS, REPLAY_OPTIONS
from replay_core import Outcome, ReplayConfig, ReplayRecord
from replay_core.config import START_FORMAT
from replay_core.decoding import options as decoding

ROOT = Path(__file__).parents[2]
CORE = (ROOT / "replay_core" / "README.md").read_text("utf-8")
ADAPTERS = (ROOT / "replay_adapters" / "README.md").read_text("utf-8")
OPTIONS = [name.removeprefix("replay_") for name in REPLAY_OPTIONS]


def first_cells(page: str = ADAPTERS) -> set[str]:
    """Return every name that stands in the first column of a page's tables."""
    rows = re.findall(r"^\| ([^|]*) \|", page, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_a_line(name):
    assert f"replay_{name}" in first_cells()


@pytest.mark.parametrize("name", PAIR_OPTIONS)
def test_every_name_of_a_pairs_parts_has_a_line(name):
    assert name in first_cells()


@pytest.mark.parametrize("name", ENGINE_OPTIONS)
def test_every_option_of_vllm_has_a_line(name):
    assert name in first_cells()


def test_the_defaults_stand_first():
    told = {}
    for first, second in re.findall(r"^\| ([^|]*) \| ([^|]*) \|", ADAPTERS, flags=re.MULTILINE):
        names = re.findall(r"`replay_([^`]+)`", first)
        values = re.findall(r"`([^`]+)`|(\d+(?:\.\d+)?)", second)
        told |= dict(zip(names, (code or number for code, number in values), strict=False))
    for name, field in ReplayConfig.model_fields.items():
        default = field.default
        assert told[name] == (f"{default:g}" if type(default) is float else str(default).lower())


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if "qwen2_" not in name])
def test_every_model_name_has_a_line(name):
    assert name in first_cells()


def test_every_outcome_and_every_field_of_a_record_has_a_line():
    cells = first_cells(CORE)
    assert {outcome.value for outcome in Outcome} <= cells
    named = set(ReplayRecord.model_fields) - {"schema_version", "method", "error"}
    assert named <= cells


def test_no_line_names_an_option_that_does_not_exist():
    told = {cell for cell in first_cells() if cell.startswith("replay_")}
    assert told == {f"replay_{name}" for name in OPTIONS}


HEADER = json.dumps({"__metadata__": {"format": START_FORMAT}}).encode()


@pytest.fixture(autouse=True)
def a_file_of_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that says it is a learned map, in the folder that options are typed in."""
    monkeypatch.chdir(tmp_path)
    Path("map.safetensors").write_bytes(len(HEADER).to_bytes(8, "little") + HEADER)


TYPED = {
    "base": ("other/base", lambda s: s.pair.base == "other/base"),
    "protocol": ("task", lambda s: s.protocol_name == "task"),
    "preset": ("table2_mathverse", lambda s: s.config.step_size == 40),
    "base_device": ("cpu", lambda s: s.base_device == "cpu"),
    "base_quantization": ("8bit", lambda s: s.base_quantization is not None),
    "turns": ("reuse", lambda s: s.turns == "reuse"),
    "boxes": ("published", lambda s: s.boxes == "published"),
    "decode": ("vllm", lambda s: s.engine is not None),
    "journal": ("answers.jsonl", lambda s: s.journal == Path("answers.jsonl")),
    "store": ("kept", lambda s: s.store == Path("kept")),
    "store_gb": ("2.5", lambda s: s.store_gb == 2.5),
    "method": ("inject", lambda s: s.config.method == "inject"),
    "select": ("high", lambda s: s.config.select == "high"),
    "boundary": ("reference", lambda s: s.config.boundary == "reference"),
    "top_k": ("full", lambda s: s.config.top_k == "full"),
    "positions": ("input", lambda s: s.config.positions == "input"),
    "layers": ("[0,2]", lambda s: s.config.layers == (0, 2)),
    "threshold": ("0.2", lambda s: s.config.threshold == 0.2),
    "maximum": ("image", lambda s: s.config.maximum == "image"),
    "thresholds": ("release", lambda s: s.config.thresholds == "release"),
    "step_size": ("40", lambda s: s.config.step_size == 40),
    "step_scaling": ("tokens", lambda s: s.config.step_scaling == "tokens"),
    "steps": ("3", lambda s: s.config.steps == 3),
    "x": ("random", lambda s: s.config.x == "random"),
    "keep": ("best", lambda s: s.config.keep == "best"),
    "start": ("map.safetensors", lambda s: getattr(s.config.start, "path", "") != ""),
    "checkpointing": ("on", lambda s: s.config.checkpointing == "on"),
    "cuda_graphs": ("off", lambda s: s.config.cuda_graphs == "off"),
    "seed": ("7", lambda s: s.config.seed == 7),
    "strict": ("true", lambda s: s.config.strict is True),
}


def test_every_option_is_typed_here():
    assert TYPED.keys() == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_its_setting_as_it_is_typed(name, monkeypatch):
    """Through the harness's own parser, which splits at commas and guesses types."""
    monkeypatch.setattr(decoding, "version", lambda package: "0.32.0")  # as if vLLM were there
    value, arrived = TYPED[name]
    typed = f"pair=mm_eureka_7b,replay_{name}={value}"
    settings = options.resolve(simple_parse_args_string(typed))
    assert arrived(settings)
    assert not arrived(options.resolve({"pair": "mm_eureka_7b"}))
    assert not any(key.startswith("replay_") for key in settings.rest)
