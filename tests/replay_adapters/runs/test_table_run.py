"""A table run whole by the command, on the embedded pair: killed twice, resumed, and reported."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from replay_adapters.runs.execute import damage, log_of, run_cells, state
from replay_adapters.runs.plan import Asking, cells
from replay_adapters.runs.table import report
from replay_adapters.settings.run_files import read_run_file

TABLE = {
    "title": "The embedded pair",
    "tasks": {"demo": {"lmms-eval": "replay_demo"}, "gone": {"lmms-eval": "no_such_task"}},
    "arms": {"none": {"method": "none"}, "replay": {"steps": 5}},
    "rows": [{"pair": "demo_narrow", "benchmarks": ["demo"]}],
}
LIMIT = 24


def command(file, output, *more):
    words = [sys.executable, "-m", "replay_adapters.cli", "run", str(file), "--output", str(output)]
    return [*words, "--limit", str(LIMIT), "--batch-size", "2", *more]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(*words):
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)


def killed(words, reached, then=lambda: None):
    """Start the command, kill it as soon as something is reached, and then its harness, too.

    Between the two ``then`` is called.
    """
    process = subprocess.Popen(
        words,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    end = time.monotonic() + 240
    while process.poll() is None and not reached() and time.monotonic() < end:
        time.sleep(0.02)
    alive = process.poll() is None
    os.killpg(process.pid, signal.SIGSTOP)  # so that the harness does not end meanwhile
    process.kill()
    process.wait()
    then()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


def journaled(folder: Path, arm: str) -> int:
    return sum(len(f.read_bytes().splitlines()) for f in folder.rglob(f"{arm}-*/journal.jsonl*"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "mine.yaml"
    file.write_text(yaml.safe_dump(TABLE))
    return file


@pytest.fixture(scope="module")
def folders(table, tmp_path_factory):
    """An undisturbed run's folder, and one that was killed in each of its two cells."""
    straight, disturbed = (tmp_path_factory.mktemp(name) for name in ("straight", "disturbed"))
    ended = run(*command(table, straight))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of 2 cells are done" in ended.stdout
    words, orphaned = command(table, disturbed), []
    assert killed(words, lambda: journaled(disturbed, "none") > 3)
    begun = lambda: journaled(disturbed, "replay") > 3  # noqa: E731
    assert killed(words, begun, then=lambda: orphaned.append(run(*words)))
    (second,) = orphaned
    assert second.returncode == 1, second.stdout + second.stderr
    assert "demo_narrow demo replay: failed: another process is at it" in second.stdout
    resumed = run(*command(table, disturbed))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "demo_narrow demo none: done before" in resumed.stdout
    return straight, disturbed, ended.stdout


def logs(table, folder):
    found, _ = cells(read_run_file(str(table)), Asking("lmms-eval", folder, LIMIT, 2))
    return {cell.arm: log_of(cell) for cell in found}


def test_a_table_that_was_killed_and_resumed_is_the_undisturbed_one(table, folders):
    straight, disturbed = (logs(table, folder) for folder in folders[:2])
    for arm in ("none", "replay"):
        assert straight[arm].scores == disturbed[arm].scores
        assert len(straight[arm].scores) == LIMIT
        answers = [
            [item.answers for item in run[arm].items.values()] for run in (straight, disturbed)
        ]
        assert answers[0] == answers[1]


def test_the_table_at_the_end_is_of_the_finished_cells(table, folders):
    straight, _, told = folders
    runs = logs(table, straight)
    means = {arm: 100 * sum(one.scores.values()) / LIMIT for arm, one in runs.items()}
    (line,) = [line for line in told.splitlines() if line.startswith("| demo_narrow demo")]
    columns = [part.strip() for part in line.strip("|").split("|")]
    assert columns[1] == str(LIMIT)
    assert columns[4:6] == [f"{means['none']:.1f}", f"{means['replay']:.1f}"]
    again = run(*command(table, straight, "--report"))
    assert line in again.stdout


def test_a_planted_score_changes_the_table(table, folders, tmp_path):
    straight, _, told = folders
    found, _ = cells(read_run_file(str(table)), Asking("lmms-eval", straight, LIMIT, 2))
    (samples,) = found[1].folder.rglob("*_samples_*.jsonl")
    kept = samples.read_text("utf-8")
    lines = [json.loads(line) for line in kept.splitlines()]
    for line in lines[:10]:
        line["accuracy"] = 1.0 - line["accuracy"]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    try:
        assert report(found) not in told
    finally:
        samples.write_text(kept, "utf-8")
    assert report(found) in told


def test_a_cell_that_fails_is_told_and_stops_no_other(tmp_path):
    file = tmp_path / "mine.yaml"
    rows = [{"pair": "demo_narrow", "benchmarks": ["gone"]}]
    file.write_text(yaml.safe_dump({**TABLE, "rows": rows, "arms": {"none": {"method": "none"}}}))
    ended = run(*command(file, tmp_path / "out"))
    assert ended.returncode == 1
    assert "0 of 1 cells are done" in ended.stdout
    assert "demo_narrow gone none: exit code 2: " in ended.stdout
    assert (
        "$ OPENAI_API_KEY=none lmms_eval --model" in ended.stdout or "$ lmms_eval" in ended.stdout
    )


def test_a_cell_without_files_is_to_run_and_has_no_log(table, tmp_path):
    found, _ = cells(read_run_file(str(table)), Asking("lmms-eval", tmp_path))
    assert [state(cell) for cell in found] == ["to run", "to run"]
    assert "| demo_narrow demo | –" in " ".join(report(found).split())
    assert damage(found[0]) is None


def test_a_finished_cell_whose_file_was_cut_is_no_longer_done(table, folders):
    straight, _, told = folders
    found, _ = cells(read_run_file(str(table)), Asking("lmms-eval", straight, LIMIT, 2))
    (samples,) = found[1].folder.rglob("*_samples_*.jsonl")
    kept = samples.read_bytes()
    samples.write_bytes(kept[:-40])
    try:
        assert [state(cell) for cell in found] == ["done", "begun"]
        assert f"{samples} holds {LIMIT - 1} of the {LIMIT} documents" in damage(found[1])
        assert "| demo_narrow demo | –" in " ".join(report(found).split())
        shown = run(*command(table, straight, "--report"))
        assert "1 of 2 cells are done" in shown.stdout
        assert "demo_narrow demo replay: was done, but has to be run again: " in shown.stdout
        with (found[1].folder / "lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            lines = []
            (failure,) = run_cells(found, lines.append)
        assert "another process is at it" in failure.why
        assert any("was done, but is run again" in line for line in lines)
    finally:
        samples.write_bytes(kept)
    assert report(found) in told
