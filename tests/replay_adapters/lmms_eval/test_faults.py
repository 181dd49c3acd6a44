"""Faults at every stage of a real run: named, counted, in the exit code; the others as ever."""

import json
import subprocess
import sys

import pytest

from replay_adapters.lmms_eval.launcher import _Ended
from tests.replay_adapters.conftest import Ended
from tests.support.faulty import FULL

TOLD = {"remedies": {"failed": "do"}, "errors": {"failed": "why"}}
FAULTS = {1: "loop", 2: "nan", 4: "vision", 5: "decode", 6: "base"}
SCRIPT = """
import json, sys
from replay_adapters.lmms_eval import answering, launcher
from tests.support import faulty

faults = {int(document): kind for document, kind in json.loads(sys.argv[1]).items()}
asked, codes = [], {}
optimised = answering.Answerer._optimised

def noting(self, rows, *given, **more):
    asked[:] = [row.document for row in rows]
    return optimised(self, rows, *given, **more)

answering.Answerer._optimised = noting
for name, options in (("whole", ""), ("faulty", ""), ("strict", ",replay_strict=true")):
    if name == "faulty":
        faulty.install(faults, lambda: asked)
    sys.argv = ["lmms_eval", "--model", "qwen2_vl_replay", "--tasks", "replay_demo", "--limit", "8"]
    sys.argv += ["--model_args", f"pair=demo_narrow,replay_steps=6{options}", "--batch_size", "2"]
    sys.argv += ["--output_path", name, "--log_samples"]
    try:
        launcher.main()
        codes[name] = 0
    except SystemExit as ended:
        codes[name] = ended.code
    print("the end of", name, file=sys.stderr)
print("codes", json.dumps(codes))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Return the three runs by name, and what all of them printed to standard error."""
    folder = tmp_path_factory.mktemp("faults")
    words = [sys.executable, "-c", SCRIPT, json.dumps(FAULTS)]
    made = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert made.returncode == 0, made.stderr[-5000:]
    (told,) = [line for line in made.stdout.splitlines() if line.startswith("codes ")]
    codes = json.loads(told.removeprefix("codes "))
    runs = {name: Ended(code, made.stderr, folder / name) for name, code in codes.items()}
    return runs


def last_line(run, name):
    """Return what stands on standard error before the run's end."""
    lines = run.output.splitlines()
    return lines[lines.index(f"the end of {name}") - 1]


def test_each_fault_ends_in_its_outcome(ended):
    whole, faulty = ended["whole"], ended["faulty"]
    assert [record["outcome"] for record in whole.records] == ["applied"] * 8
    named = {n: record["outcome"] for n, record in enumerate(faulty.records)}
    full = {number: "out_of_memory" for number in (1, 4, 5)}
    assert named == {n: "applied" for n in (0, 3, 7)} | full | {2: "non_finite", 6: "failed"}
    errors = {number: record["error"] for number, record in enumerate(faulty.records)}
    memory = {number: f"OutOfMemoryError: {FULL}" for number in full}
    wrong = "ValueError: the base's pass went wrong"
    assert errors == dict.fromkeys((0, 2, 3, 7)) | memory | {6: wrong}
    answered = {number: bool(answer) for number, answer in faulty.answers.items()}
    assert answered == {number: number != 5 for number in range(8)}  # nobody can decode the sixth


def test_every_other_sample_is_answered_as_without_the_fault(ended):
    whole, faulty = ended["whole"], ended["faulty"]
    for number in (0, 3, 7):
        assert faulty.answers[number] == whole.answers[number]
        one, other = faulty.records[number], whole.records[number]
        assert one["loss_after"] == pytest.approx(other["loss_after"], rel=1e-3)


def test_faults_stand_in_the_exit_code_and_in_the_last_line(ended):
    assert {name: run.code for name, run in ended.items()} == {"whole": 0, "faulty": 3, "strict": 1}
    assert last_line(ended["whole"], "whole") == "lmms_eval: 8 answers: applied 8"
    told = last_line(ended["faulty"], "faulty")
    assert told.startswith(
        "lmms_eval: 8 answers: applied 3, failed 1, non_finite 1, out_of_memory 3; out_of_memory "
        f"(OutOfMemoryError: {FULL}): take fewer pixels"
    )
    assert "; failed (ValueError: the base's pass went wrong): the record's error and the " in told
    assert ended["faulty"].results["replay"]["totals"]["outcomes"]["out_of_memory"] == 3
    assert "Traceback" in ended["faulty"].output  # where the exception came from


def test_strict_raises_the_first_of_them(ended):
    """The seventh document's: the harness's class answers long prompts first."""
    told = last_line(ended["strict"], "strict")
    assert told == "lmms_eval: failed: ValueError: the base's pass went wrong"
    assert not list(ended["strict"].folder.rglob("*_results.json"))


@pytest.mark.parametrize(
    ("outcomes", "failures", "code", "start"),
    [
        ({"applied": 3}, [], 0, "3 answers: applied 3"),
        ({"applied": 3, "unreadable_input": 1}, [], 0, "4 answers: applied 3, unreadable_input 1"),
        ({"applied": 3, "failed": 1}, [], 3, "4 answers: applied 3, failed 1; failed (why): do"),
        ({"failed": 2}, [], 1, "failed: no sample was answered as it was meant to be; 2 answers"),
        ({"failed": 2}, ["a.json is cut"], 1, "failed: a.json is cut; 2 answers: failed 2"),
        (None, ["ValueError: x"], 1, "failed: ValueError: x"),
        (None, [], 0, ""),
    ],
)
def test_what_a_command_comes_to(outcomes, failures, code, start):
    totals = [] if outcomes is None else [{"outcomes": outcomes, **TOLD}]
    found, told = _Ended(failures, totals).verdict()
    assert found == code
    assert told.startswith(start)
    assert bool(told) is bool(start)
