"""A disk that fills up, and a signal in the middle of a write: the journal goes on behind it."""

import json
import signal
import subprocess
import sys

import pytest

from tests.replay_adapters.conftest import Ended

SCRIPT = """
import errno, json, os, signal, sys
from replay_adapters.lmms_eval import launcher

fault, written, fsync = None, [], os.fsync

def failing(file):
    fsync(file)
    written.append(file)
    if len(written) == 3 and fault == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if len(written) == 3 and fault == "signal":
        os.ftruncate(file, os.fstat(file).st_size - 9)  # so far it was on the disk
        os.kill(os.getpid(), signal.SIGTERM)

os.fsync = failing
for name, fault, journal in json.loads(sys.argv[1]):
    written.clear()
    sys.argv = ["lmms_eval", "--model", "qwen2_vl_replay", "--tasks", "replay_demo", "--limit", "8"]
    given = "pair=demo_narrow,replay_steps=6,dtype=float32" + ",replay_journal=answers" * journal
    sys.argv += ["--model_args", given, "--batch_size", "1", "--output_path", name, "--log_samples"]
    code = 0
    try:
        launcher.main()
    except SystemExit as ended:
        code = ended.code
    print("code", name, code, len(written), flush=True)
"""


def run(folder, *runs):
    words = [sys.executable, "-c", SCRIPT, json.dumps(runs)]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """The folder, and the two processes: one killed in a write, one that goes on behind it."""
    folder = tmp_path_factory.mktemp("disk")
    killed = run(folder, ("full", "full", True), ("killed", "signal", True))
    again = run(folder, ("again", None, True), ("whole", None, False))
    return folder, killed, again


def told(process):
    """Return name → exit code of the runs that came to their end."""
    lines = [line.split() for line in process.stdout.splitlines() if line.startswith("code ")]
    return {name: (int(code), int(written)) for _, name, code, written in lines}


def test_a_full_disk_ends_the_run_with_its_reason(disturbed):
    """It is no sample's fault: nothing that is answered from there on could be kept."""
    folder, killed, _ = disturbed
    assert told(killed) == {"full": (1, 3)}
    assert "lmms_eval: failed: OSError: [Errno 28] No space left on device\n" in killed.stderr
    assert not list((folder / "full").rglob("*_results.json"))


def test_a_signal_in_the_middle_of_a_write_ends_the_process(disturbed):
    folder, killed, _ = disturbed
    assert killed.returncode == -signal.SIGTERM
    assert not list((folder / "killed").rglob("*_results.json"))


def test_the_run_that_goes_on_equals_an_undisturbed_one(disturbed):
    folder, _, again = disturbed
    codes = told(again)
    assert (codes["again"][0], codes["whole"][0]) == (0, 0), again.stderr[-3000:]
    ours, whole = (Ended(0, "", folder / name) for name in ("again", "whole"))
    assert ours.answers == whole.answers
    for one, other in zip(ours.records, whole.records, strict=True):
        assert {**one, "seconds": None} == {**other, "seconds": None}
    assert 0 < codes["again"][1] < 8  # what was on the disk is not answered again
