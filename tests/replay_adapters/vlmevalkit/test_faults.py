"""Faults at every stage of a real run: named, counted, in the exit code; the others as ever."""

import json
import subprocess
import sys

import pytest

from tests.replay_adapters.vlmevalkit.conftest import answers
from tests.support.faulty import FULL

FAULTS = {1: "loop", 2: "nan", 4: "vision", 5: "decode", 6: "base"}
SCRIPT = """
import json, sys
from replay_adapters.vlmevalkit import launcher
from replay_adapters.vlmevalkit.journal import noted_sample
from tests.support import faulty

faults = {int(index): kind for index, kind in json.loads(sys.argv[1]).items()}
codes = {}
for name, work in (("whole", "whole"), ("faulty", "faulty"), ("again", "faulty")):
    if name == "faulty":
        faulty.install(faults, lambda: [noted_sample()])
    if name == "again":
        faults.clear()
    sys.argv = ["vlmeval_replay", "--model", "demo_narrow-replay", "--data", "replay_demo"]
    sys.argv += ["--replay", "steps=6", "--work-dir", work, "--mode", "infer"]
    try:
        launcher.main()
        codes[name] = 0
    except SystemExit as ended:
        codes[name] = ended.code
    print("the end of", name, file=sys.stderr)
print("codes", json.dumps(codes))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory, sets):
    """Return the runs' exit codes by name, the folder, and what all printed to standard error."""
    from replay_adapters.vlmevalkit.demo import demo_documents, write_set

    folder = tmp_path_factory.mktemp("faults")
    write_set(folder / "data" / "replay_demo.tsv", demo_documents()[:8])
    environment = sets.environment(LMUData=str(folder / "data"))
    words = [sys.executable, "-c", SCRIPT, json.dumps(FAULTS)]
    made = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert made.returncode == 0, made.stderr[-5000:]
    (told,) = [line for line in made.stdout.splitlines() if line.startswith("codes ")]
    return json.loads(told.removeprefix("codes ")), folder, made.stderr


def last_line(output, name):
    """Return what stands on standard error before the run's end."""
    lines = output.splitlines()
    return lines[lines.index(f"the end of {name}") - 1]


def records(folder, name):
    lines = answers(folder / name, "demo_narrow-replay", "replay_demo").lines
    return {line["index"]: line["replay"][0] for line in lines}


def test_faults_stand_in_the_exit_code_and_in_the_last_line(ended):
    codes, _, output = ended
    assert codes == {"whole": 0, "faulty": 3, "again": 0}
    told = last_line(output, "faulty")
    assert told.endswith(
        "8 of 8 rows were answered; 3 out_of_memory: index 1, 4, 5; 1 failed: index 6"
    )
    assert last_line(output, "whole").endswith("8 of 8 rows were answered")
    assert f"OutOfMemoryError: {FULL}" in output


def test_a_run_that_goes_on_asks_those_again_that_ended_in_a_fault(ended):
    """Afterwards everything is as in a run without faults, but for the loss that was no number."""
    _, folder, output = ended
    assert "4 samples are answered again" in output
    whole, again = records(folder, "whole"), records(folder, "faulty")
    assert {record["outcome"] for record in whole.values()} == {"applied"}
    outcomes = {index: record["outcome"] for index, record in again.items()}
    assert outcomes == {**dict.fromkeys(range(8), "applied"), 2: "non_finite"}
    ours, theirs = (
        answers(folder / name, "demo_narrow-replay", "replay_demo").predictions
        for name in ("faulty", "whole")
    )
    for index in set(range(8)) - {2}:
        assert ours[index] == theirs[index]
        assert again[index]["loss_after"] == whole[index]["loss_after"]
