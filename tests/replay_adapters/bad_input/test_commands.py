"""Bad input for ``activation-replay``: one sentence, exit code 2, before weights are read."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from string import Template

import pytest

from replay_adapters import cli, demo
from tests.replay_adapters.bad_input import command_cases as cases
from tests.replay_adapters.bad_input.conftest import write
from tests.support.lmms_eval_files import REPLAY, samples_file, write_run

SCORES = [{"accuracy": number % 2} for number in range(6)]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, places, tiny_pairs) -> dict[str, str]:
    """Finished runs: the policy alone, a steered one, and one with conversations."""
    root = tmp_path_factory.mktemp("runs")
    turn = {"turn": 0, "outcome": "applied", "response": "a", "new_tokens": 1}
    talk = [{**row, "replay": [turn]} for row in SCORES]
    made = {
        "run": write_run(root / "run", SCORES),
        "other": write_run(root / "other", SCORES, summary={"config": REPLAY}),
        "talk": write_run(root / "talk", talk),
    }
    full = root / "full"
    full.mkdir()
    write(full / "file", "x")
    pair = tiny_pairs["qwen2_5_vl"]
    lines = {"samples": 1, "samples_nan": float("nan"), "samples_text": "right"}
    files = {
        name: write(root / f"{name}.jsonl", json.dumps({"document": 0, "correct": value}) + "\n")
        for name, value in lines.items()
    }
    files["samples_other"] = write(root / "other.jsonl", '{"banana": 3}\n')
    files["pair"] = write(root / "pair.yaml", f"policy: {pair.policy}\nbase: {pair.base}\n")
    named = {**made, **files, "full": full, "new": root / "new"}
    return {**places, **{name: str(path) for name, path in named.items()}}


@pytest.fixture
def told(monkeypatch, ended, no_weights, runs, tmp_path) -> Callable[[str], str]:
    """Return what the command says; no process is started, and nothing is written."""
    assert demo.run_demo  # imported, whose annotations name what is replaced here
    for name in ("run", "Popen"):
        monkeypatch.setattr(subprocess, name, lambda *a, **k: pytest.fail("a process began"))
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        said = ended(cli.main, "activation-replay", shlex.split(Template(line).substitute(runs)))
        assert not list(tmp_path.rglob("results"))
        return said

    return run


@pytest.mark.parametrize(("line", "words"), cases.LINES)
def test_a_command_line(told, line, words):
    assert words in told(line)


@pytest.fixture
def damaged(runs, tmp_path) -> Path:
    return Path(shutil.copytree(runs["run"], tmp_path / "damaged"))


@pytest.mark.parametrize("name", cases.RESULTS)
def test_a_damaged_results_file(told, damaged, name):
    change, words = cases.RESULTS[name]
    (file,) = damaged.rglob("*_results.json")
    write(file, json.dumps(change(json.loads(file.read_text()))))
    assert words in told(f"compare {damaged} $run")
    assert words in told(f"submission {damaged} --output $new")


@pytest.mark.parametrize("name", cases.SAMPLES)
def test_a_damaged_samples_file(told, damaged, name):
    change, words = cases.SAMPLES[name]
    file = samples_file(damaged)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    write(file, "".join(json.dumps(line) + "\n" for line in change(lines)))
    assert words in told(f"compare {damaged} $run")
    assert words in told(f"conversation {damaged}") or name.startswith(("records", "counts"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["*_results.json", "*_samples_*.jsonl"])
def test_a_run_whose_file_was_cut(told, damaged, kind, share):
    (file,) = damaged.rglob(kind)
    data = file.read_bytes()
    write(file, data[: int(share * len(data))])
    told(f"compare {damaged} $run")
