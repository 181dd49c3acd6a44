"""Bad input for ``vlmeval_replay``: one sentence, exit code 2, before weights are read."""

import json
import shlex
from pathlib import Path

import pytest

from replay_adapters.vlmevalkit import launcher
from tests.replay_adapters.bad_input import vlmevalkit_cases as cases
from tests.replay_adapters.bad_input.checkpoints import DAMAGES
from tests.replay_adapters.bad_input.conftest import write
from tests.replay_adapters.vlmevalkit.conftest import harness as harness

DEMO = "--model demo-replay --data replay_demo"


@pytest.fixture
def told(monkeypatch, ended, filled, no_weights, harness, tmp_path):
    """Return what the command says; the harness's run script must not begin."""
    monkeypatch.setattr(harness.run, "main", lambda: pytest.fail("the run script began"))
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        words = shlex.split(filled(line.replace("$demo", DEMO)))
        return ended(launcher.main, "vlmeval_replay", words)

    return run


def run_file(folder: Path, model: object, data: object) -> str:
    content = {"model": {"mine": model}, "data": data}
    return shlex.quote(str(write(folder / "run.json", content)))


@pytest.mark.parametrize(("given", "words"), cases.OPTIONS)
def test_an_option(told, given, words):
    assert words in told(f"$demo --replay {shlex.quote(given)}")


@pytest.mark.parametrize(("line", "words"), cases.LINES)
def test_a_command_line(told, line, words):
    assert words in told(line)


@pytest.mark.parametrize(("entry", "words"), cases.MODELS)
def test_a_model_of_a_run_file(told, tmp_path, entry, words):
    model = {"class": "Qwen2VLChatReplay", "pair": "demo", **entry}
    data = {"replay_demo": {"class": "CustomVQADataset", "dataset": "replay_demo"}}
    assert words in told(f"--config {run_file(tmp_path, model, data)}")


@pytest.mark.parametrize(("data", "words"), cases.SETS)
def test_a_set_of_a_run_file(told, tmp_path, tiny_pairs, data, words):
    pair = tiny_pairs["qwen2_5_vl"]
    model = {"class": "Qwen2VLChatReplay", "model_path": str(pair.policy)}
    model |= {"replay_base": str(pair.base)}
    assert words in told(f"--config {run_file(tmp_path, model, data)}")


@pytest.mark.parametrize(("content", "words"), cases.FILES)
def test_a_run_file(told, tmp_path, content, words):
    assert words in told(f"--config {write(tmp_path / 'run.json', content)}")


@pytest.mark.parametrize(("given", "words"), cases.VARIABLES)
def test_a_variable(told, monkeypatch, filled, given, words):
    name, _, value = filled(given).partition("=")
    monkeypatch.setenv(name, value)
    assert words in told("$demo")


def test_a_set_that_is_not_there(told, tiny_pairs, monkeypatch):
    pair = tiny_pairs["qwen2_5_vl"]
    names = {"mine-replay": {"pretrained": str(pair.policy), "replay_base": str(pair.base)}}
    names["mine-replay"] |= {"replay_method": "replay"}
    monkeypatch.setattr("replay_adapters.vlmevalkit.names.model_names", lambda: names)
    line = "--model mine-replay --data"
    assert "--data MMStarr is not a set of VLMEvalKit" in told(f"{line} MMStarr")
    assert "did you mean MMStar?" in told(f"{line} MMStarr")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint(told, damaged, tmp_path, name):
    """As the policy, alone: there is no base to lend it a processor."""
    model = {"class": "Qwen2VLChatReplay", "model_path": str(damaged(name).policy)}
    model |= {"replay_method": "none"}
    data = {"pictures": {"class": "CustomVQADataset", "dataset": "pictures"}}
    assert DAMAGES[name][1] in told(f"--config {run_file(tmp_path, model, data)}")
    assert json.loads((tmp_path / "run.json").read_text())["data"] == data
