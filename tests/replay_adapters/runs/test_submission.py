"""Bundles of real runs of both harnesses: what they hold, and what is refused."""

import hashlib
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from replay_adapters.cli import app
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.submission import submit
from replay_core import UsageError
from tests.replay_adapters.conftest import REPLAY
from tests.replay_adapters.vlmevalkit.conftest import (  # noqa: F401
    PICTURES,
    sets,
    tiny_model,
    vlmeval,
    write_run_file,
)
from tests.replay_adapters.vlmevalkit.conftest import REPLAY as REPLAY_ENTRY
from tests.support.tables import by, section, tables


def commanded(folders, output) -> str:
    """Return the command in the refusal of runs without their twin."""
    with pytest.raises(UsageError, match="is missing: the same settings with the policy") as told:
        submit(folders, output)
    assert not output.exists()
    return str(told.value).splitlines()[-1]


def run_in_a_shell(command: str, **environment: str) -> None:
    """Run what was told as a user would, with the installed commands."""
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    path = ":".join(word for word in sys.path if word)
    ended = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **here, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def of_lmms_eval(lmms_eval, tiny_pairs, tmp_path_factory):
    """Return folders of a steered run of lmms-eval and of the twin that its refusal's command
    made, and a bundle of them."""
    pair = tiny_pairs["qwen2_5_vl"]
    given = f"pretrained={pair.policy},replay_base={pair.base},dtype=float32,replay_method=replay"
    given += f",min_pixels=3136,max_pixels=50176,{REPLAY}"
    more = ("--batch_size", "3", "--limit", "5", "--gen_kwargs", "max_new_tokens=6")
    run = lmms_eval("qwen2_vl_replay", given, "replay_test_pictures", *more).folder
    output = tmp_path_factory.mktemp("lmms-eval") / "bundle"
    command = commanded([run], output)
    run_in_a_shell(command)
    words = shlex.split(command)
    twin = Path(words[words.index("--output_path") + 1])
    submit([run, twin], output, name="Tiny-RL")
    return run, twin, output


def test_the_twin_that_a_refusal_commands_is_the_same_run_without_replay(of_lmms_eval):
    run, twin, _ = of_lmms_eval
    (steered,), (plain,) = read_runs(run), read_runs(twin)
    assert (steered.config["method"], plain.config["method"]) == ("replay", "none")
    assert len(plain.items) == len(steered.items) == 5
    assert plain.facts == steered.facts


def test_a_bundle_of_lmms_eval_holds_the_harnesses_files_by_model(of_lmms_eval):
    run, twin, output = of_lmms_eval
    for folder, source in (("Tiny-RL-Replay", run), ("Tiny-RL", twin)):
        ours = {path.name: path for path in (output / "lmms-eval" / folder).iterdir()}
        theirs = {path.name: path for path in source.rglob("*.json*")}
        assert ours.keys() == theirs.keys()
        assert {path.suffix for path in ours.values()} == {".json", ".jsonl"}
        for name, path in ours.items():
            assert path.read_bytes() == theirs[name].read_bytes()
    assert not (output / "openvlm").exists()


def test_the_page_says_what_the_runs_came_to(of_lmms_eval):
    run, twin, output = of_lmms_eval
    page = (output / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# Tiny-RL (Replay)\n")
    (line,) = tables(section(page, "Results"))[0]
    (steered,), (plain,) = read_runs(run), read_runs(twin)
    means = [100 * sum(log.scores.values()) / 5 for log in (plain, steered)]
    assert (line["measured none"], line["measured replay"]) == tuple(f"{m:.1f}" for m in means)
    (checkpoints,) = tables(page.split("## Results")[0])
    policy = by("", checkpoints)["policy"]
    assert policy["checkpoint"] == steered.settings["policy"]
    assert policy["revision"] == steered.settings["policy_revision"]
    (values,) = tables(section(page, "replay_test_pictures in lmms-eval"))
    told = {row[""]: row["value"] for row in values}
    assert told["outcomes"] == "applied=5"
    assert "layers=3" in told["options"]
    assert "lmms_eval --model qwen2_vl_replay --model_args" in page
    assert "transformers=" in told["versions"]


def test_a_bundle_names_its_files_and_their_hashes(of_lmms_eval):
    _, _, output = of_lmms_eval
    bundle = json.loads((output / "bundle.json").read_text(encoding="utf-8"))
    found = {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file() and path.name != "bundle.json"
    }
    assert bundle["files"] == found
    (run,) = bundle["runs"]
    assert run["totals"]["outcomes"] == {"applied": 5}
    assert run["twin_totals"]["outcomes"] == {"off": 5}
    assert run["comparison"]["n"] == 5
    assert run["settings"]["base_revision"].startswith("sha256:")


@pytest.fixture(scope="module")
def of_vlmevalkit(vlmeval, tiny_model, sets, tmp_path_factory):  # noqa: F811
    """Return the work folder of a steered run of VLMEvalKit and of its twin, and their bundle."""
    work = tmp_path_factory.mktemp("work") / "a folder"
    work.mkdir()
    entry = tiny_model(replay_method="replay", **REPLAY_ENTRY)
    file = write_run_file(work / "run.json", {"tiny-replay": entry}, PICTURES)
    words = ("--config", str(file), "--work-dir", str(work), "--judge", "exact_matching")
    ended = vlmeval(*words)
    assert ended.returncode == 0, ended.stdout[-5000:]
    output = tmp_path_factory.mktemp("vlmevalkit") / "bundle"
    run_in_a_shell(commanded([work], output), LMUData=str(sets.data))
    submit([work], output, name="Tiny-RL")
    return work, output


def test_predictions_are_sheets_as_the_leaderboard_has_them(of_vlmevalkit, tmp_path):
    work, output = of_vlmevalkit
    for model, source in (("Tiny-RL-Replay", "tiny-replay-*"), ("Tiny-RL", "tiny-none-*")):
        sheet = pd.read_excel(output / "openvlm" / model / f"{model}_pictures.xlsx")
        (path,) = work.glob(f"{source}/{source}_pictures.tsv")
        written = pd.read_csv(path, sep="\t")
        written.to_excel(tmp_path / "own.xlsx", index=False, engine="xlsxwriter")  # as the harness
        pd.testing.assert_frame_equal(sheet, pd.read_excel(tmp_path / "own.xlsx"))
        assert len(sheet) == 12
        assert {"index", "question", "A", "B", "answer", "prediction"} <= set(sheet.columns)
    folder = output / "VLMEvalKit" / "Tiny-RL-Replay"
    (result,) = folder.glob("*_exact_matching_result.tsv")
    assert "hit" in pd.read_csv(result, sep="\t").columns
    assert (folder / "replay" / "pictures.jsonl").is_file()


def test_a_run_of_vlmevalkit_says_what_it_was_made_with(of_vlmevalkit, tiny_pairs):
    _, output = of_vlmevalkit
    (run,) = json.loads((output / "bundle.json").read_text(encoding="utf-8"))["runs"]
    settings, twin = run["settings"], run["twin_settings"]
    assert settings["policy_revision"] == twin["policy_revision"]
    assert settings["policy_revision"] != settings["base_revision"]
    assert "ms-vlmeval" in settings["versions"]
    assert settings["arguments"]["replay_layers"] == 3
    assert run["totals"]["outcomes"] == {"applied": 12}
    assert run["twin_totals"]["outcomes"] == {"off": 12}
    page = (output / "README.md").read_text(encoding="utf-8")
    assert str(tiny_pairs["qwen2_5_vl"].policy) in page
    assert "openvlm.zip" in section(page, "Files")


def test_the_models_entry_builds_what_was_run(of_vlmevalkit):
    work, output = of_vlmevalkit
    entry = output / "openvlm" / "model_entry.py"
    series = runpy.run_path(str(entry))["replay_series"]
    assert series.keys() == {"Tiny-RL-Replay", "Tiny-RL"}
    for name, source in (("Tiny-RL-Replay", "tiny-replay"), ("Tiny-RL", "tiny-none")):
        assert (work / f"{source}-{series[name].planned.fingerprint[:8]}").is_dir()
    assert "# Method: Tiny-RL (Replay)" in entry.read_text(encoding="utf-8")


def test_the_command_writes_a_bundle_and_never_over_another(of_lmms_eval, tmp_path):
    run, twin, _ = of_lmms_eval
    words = ["submission", str(run), str(twin), "--output", str(tmp_path / "new")]
    ended = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ended.exit_code == 0
    assert str(tmp_path / "new" / "README.md") in ended.stdout
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"--output .*new exists already"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
