"""The doctor's examination of a pair: each check seen passing, and seen failing with a remedy."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from replay_adapters import pair_checks
from replay_adapters.cli import app
from replay_adapters.pair_checks import Check, check_pair, items_of
from replay_core import Outcome, Steered, UsageError
from tests.support import media

REPLAY = {"layers": 3, "threshold": 0.7, "step_size": 3, "steps": 4}
SMALL = {"min_pixels": 3136, "max_pixels": 12544}


@pytest.fixture
def pair_file(tiny_pairs, tmp_path):
    """Write a pair file of the tiny checkpoints; return its path."""

    def write(family="qwen2_5_vl", **fields: Any) -> Path:
        own = tiny_pairs[family]
        content = {"policy": str(own.policy), "base": str(own.base), "dtype": "float32"}
        content |= {"replay": REPLAY, "protocol": SMALL, **fields}
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def checks(file: Path, items: int | None = None, image: Path | None = None, **more: Any):
    found = check_pair({"pair": str(file), **more}, device="cpu", items=items, image=image)
    return {check.name: check for check in found}


NAMES = [
    *("compatible", "vision towers", "doors", "zero steps", "self-pair"),
    *("loss", "changed", "memory", "time"),
]


def test_every_line_of_a_sound_pair_passes(pair_file):
    found = checks(pair_file(), items=3600)
    assert [check.name for check in found.values()] == NAMES
    assert all(check.well for check in found.values()), list(map(str, found.values()))
    assert found["compatible"].told.startswith("qwen2_5_vl, hidden size ")
    assert found["vision towers"].told == "different: both run"
    assert found["zero steps"].told == "the plain policy's answer and logits, bit for bit"
    assert found["self-pair"].told == "0 nats loss with the policy as its own base (no_drift)"
    assert "applied, 4 steps, 16 visual tokens" in found["loss"].told
    assert found["changed"].told.endswith("of the visual features' elements, in float32")
    assert "3,600 items like this one take at most" in found["time"].told
    assert str(found["loss"]).startswith("loss                passes: ")


@pytest.mark.parametrize("items", ["1000", "mathvista", "MathVista"])
def test_a_data_set_is_a_number_or_a_benchmark(items):
    assert items_of(items) == 1000


@pytest.mark.parametrize("items", ["0", "-1", "matvista", "1.5", ""])
def test_anything_else_is_one_sentence(items):
    with pytest.raises(UsageError, match=rf"--items {items} is not allowed.*a number above 0"):
        items_of(items)


def test_equal_towers_are_told_and_beside_them_what_the_file_says(pair_file, tiny_pairs):
    own = str(tiny_pairs["qwen2_5_vl"].policy)
    found = checks(pair_file(base=own, vision_frozen=False))
    told = "equal: each picture is encoded once; the pair's file says vision_frozen: false"
    assert found["vision towers"] == Check("vision towers", told)
    assert found["loss"].told.startswith("0 → 0 nats, no_drift")  # policy and base are one


def test_checkpoints_that_are_no_pair_are_one_line(pair_file, tiny_pairs):
    found = checks(pair_file(base=str(tiny_pairs["llava"].base)))
    assert list(found) == ["compatible"]
    assert not found["compatible"].well
    assert "are not a pair: their architecture differs" in found["compatible"].told
    found = checks(pair_file(base="/no/where"))
    assert "/no/where is not a checkpoint" in found["compatible"].told


def test_a_missing_shard_of_the_base_is_named(pair_file, tiny_pairs, tmp_path):
    base = Path(shutil.copytree(tiny_pairs["qwen2_5_vl"].base, tmp_path / "base"))
    (weights,) = base.glob("*.safetensors")
    parts = {f"part-{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    weights.rename(base / parts["part-1"])
    index = {"metadata": {}, "weight_map": dict(zip(["a", "b"], parts.values(), strict=True))}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    found = checks(pair_file(base=str(base)))
    assert list(found)[:1] == ["compatible"]
    (bad,) = [check for check in found.values() if not check.well]
    assert parts["part-2"] in bad.told


def test_a_processor_of_another_family_is_one_line(pair_file, tiny_pairs):
    found = checks(pair_file(processor=str(tiny_pairs["llava"].policy)))
    (bad,) = [check for check in found.values() if not check.well]
    assert bad.told


def test_a_step_that_is_too_large_fails_with_the_remedy(pair_file):
    found = checks(pair_file(), replay_step_size="1e12")
    assert [name for name, check in found.items() if not check.well] == ["loss"]
    assert "lower replay_step_size" in found["loss"].told


def test_a_change_that_is_lost_in_rounding_fails_with_the_remedy(pair_file):
    found = checks(pair_file(), replay_step_size="1e-30")
    assert not found["loss"].well
    assert "no_effect" in found["loss"].told
    assert "raise replay_step_size" in found["loss"].told


def test_a_model_that_answers_otherwise_at_zero_steps_fails(pair_file, monkeypatch):
    real = Steered.optimise

    def nudged(self: Steered, *given: Any, **more: Any) -> Any:
        result = real(self, *given, **more)
        moved = None if result.delta is None else result.delta + 1e-3
        return replace(result, delta=moved) if self.config.steps == 0 else result

    monkeypatch.setattr(Steered, "optimise", nudged)
    found = checks(pair_file())
    assert [name for name, check in found.items() if not check.well] == ["zero steps"]
    assert "logits differ by up to " in found["zero steps"].told


def test_a_lens_that_does_not_read_the_model_as_it_reads_itself_fails(pair_file, monkeypatch):
    real = Steered.optimise

    def drifting(self: Steered, *given: Any, **more: Any) -> Any:
        result = real(self, *given, **more)
        if self.pair.base is not self.pair.policy:
            return result
        sample = replace(result.samples[0], outcome=Outcome.APPLIED, losses=(0.5, 0.4))
        return replace(result, samples=(sample,))

    monkeypatch.setattr(Steered, "optimise", drifting)
    found = checks(pair_file())
    assert [name for name, check in found.items() if not check.well] == ["self-pair"]
    assert found["self-pair"].told.startswith("0.5 nats loss with the policy as its own base")


def test_a_sample_for_which_memory_runs_out_is_a_line(pair_file, monkeypatch):
    def full(*given: Any, **more: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(pair_checks, "answer", full)
    found = checks(pair_file())
    assert not found["one sample"].well
    assert found["one sample"].told.startswith("MemoryError: no room; take fewer pixels")


def test_a_picture_of_ones_own(pair_file, tmp_path):
    whole, cut = tmp_path / "whole.png", tmp_path / "cut.png"
    whole.write_bytes(media.png((140, 84)))
    cut.write_bytes(media.png()[:300])
    found = checks(pair_file(), image=whole)
    assert all(check.well for check in found.values())
    assert f"{cut}: " in checks(pair_file(), image=cut)["doors"].told


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *words])


def test_the_command_ends_with_1_where_a_line_fails(pair_file):
    file = str(pair_file())
    whole = run(file, "--items", "10")
    assert whole.exit_code == 0, whole.output
    assert [line.split("  ")[0] for line in whole.output.splitlines()[-len(NAMES) :]] == NAMES
    assert "\ntested set " in whole.output
    ill = run(file, "--model-args", "replay_step_size=1e12,replay_layers=[0,2]")
    assert ill.exit_code == 1
    assert "\nloss                FAILS: " in ill.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model-args", "replay_step_size"], "--model-args replay_step_size is not a list"),
        (["--model-args", "replay_stepsize=1"], "replay_stepsize is not an option"),
        (["--image", "no.png"], "--image no.png is no file"),
        (["--items", "none"], "--items none is not allowed"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(pair_file, words, told):
    failed = run(str(pair_file()), *words)
    assert isinstance(failed.exception, UsageError)
    assert told in str(failed.exception)
