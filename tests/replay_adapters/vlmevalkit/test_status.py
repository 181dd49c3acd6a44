"""What came of a run: when it counts as failed, and what its last line says."""

import json
import os

import pytest

from replay_adapters.vlmevalkit.status import Run, verdict

WHOLE = {"asked": 12, "unanswered": [], "unreadable": []}


@pytest.fixture
def left(tmp_path):
    """Write what the harness and the package leave of model "m" on a set; return the run."""

    def write(dataset="d", rows=WHOLE, argv=(), **status):
        folder = tmp_path / "m"
        (folder / "replay").mkdir(parents=True, exist_ok=True)
        known = folder / "status.json"
        datasets = json.loads(known.read_text())["datasets"] if known.is_file() else {}
        known.write_text(json.dumps({"datasets": {**datasets, dataset: status}}))
        if rows is not None:
            (folder / "replay" / f"{dataset}.rows.json").write_text(json.dumps(rows))
        return Run(list(argv), None, tmp_path, ["m"], [dataset], {"m": {}})

    return write


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        ({"status": "done"}, None),
        ({"status": "done", "skip_reason": "mode_infer"}, None),
        ({"status": "done", "error_message": None}, None),
        ({"status": "done", "skip_reason": "invalid_dataset"}, "invalid dataset"),
        ({"status": "done", "skip_reason": "No infer result found"}, "No infer result found"),
        ({"status": "done", "error_message": "boom\nmore"}, "boom"),
        # What an assertion without a message leaves.
        ({"status": "done", "error_message": ""}, "it failed; the log has the exception"),
        ({"status": "infer"}, "it was not finished"),
        ({}, "it was not finished"),
    ],
)
def test_what_counts_as_a_failure(left, status, failure):
    told = verdict(left(**status), 0.0)
    counted = "12 of 12 rows were answered"
    if failure is None:
        assert told == (0, f"m on d: {counted}")
    else:
        assert told == (1, f"failed: m on d: {failure}; {counted}")


@pytest.mark.parametrize(
    ("rows", "code", "told"),
    [
        (
            {"asked": 12, "unanswered": [3, "b"]},
            1,
            "10 of 12 rows were answered, not index 3, b",
        ),
        (
            {"asked": 9, "unanswered": list(range(7))},
            1,
            "2 of 9 rows were answered, not index 0, 1, 2, 3, 4 and 2 more",
        ),
        ({"asked": 2, "unanswered": [1, 2]}, 1, "0 of 2 rows were answered, not index 1, 2"),
        (
            {"asked": 3, "unreadable": [7]},
            0,
            "3 of 3 rows were answered; 1 unreadable_input: index 7",
        ),
        (
            {"asked": 2, "unreadable": [1, 2]},
            1,
            "no row's input can be read; 2 of 2",
        ),
        (
            {"asked": 4, "faults": {"out_of_memory": [2, 3], "failed": [3]}},
            3,
            "4 of 4 rows were answered; 2 out_of_memory: index 2, 3; 1 failed: index 3",
        ),
        (
            {"asked": 2, "faults": {"failed": [1, 2]}},
            1,
            "no row was answered as it was meant to be; 2 of 2",
        ),
        ({"asked": 0}, 1, "the set has no rows"),
        (None, 1, "no row was answered"),
    ],
)
def test_rows_without_an_answer_are_a_failure(left, rows, code, told):
    found, text = verdict(left(rows=rows, status="done"), 0.0)
    assert found == code
    assert text.startswith(f"failed: m on d: {told}" if code == 1 else f"m on d: {told}")


def test_what_an_earlier_run_left_does_not_count(left, tmp_path):
    run = left(status="done")
    os.utime(tmp_path / "m" / "replay" / "d.rows.json", (100, 100))
    assert verdict(run, 200.0) == (1, "failed: m on d: no row was answered")
    os.utime(tmp_path / "m" / "status.json", (100, 100))
    assert verdict(run, 200.0) == (1, "failed: m on d: it was not finished")


@pytest.mark.parametrize("argv", [["--mode", "eval"], ["--reuse", "--mode=eval"]])
def test_where_only_scores_are_made_the_earlier_runs_rows_count(left, tmp_path, argv):
    run = left(argv=argv, rows={"asked": 4, "unanswered": [2]}, status="done")
    os.utime(tmp_path / "m" / "replay" / "d.rows.json", (100, 100))
    assert verdict(run, 200.0)[1] == "failed: m on d: 3 of 4 rows were answered, not index 2"
    (tmp_path / "m" / "replay" / "d.rows.json").unlink()
    assert verdict(run, 200.0) == (0, "m on d: done")


def test_every_model_and_set_is_told_and_one_failure_is_enough(left):
    left("e", rows={"asked": 5, "unanswered": [1]}, status="done")
    run = left(status="done")
    run.datasets.append("e")
    assert verdict(run, 0.0) == (
        1,
        "failed: m on e: 4 of 5 rows were answered, not index 1",
    )
    left("e", rows={"asked": 5}, status="done")
    told = "m on d: 12 of 12 rows were answered. m on e: 5 of 5 rows were answered"
    assert verdict(run, 0.0) == (0, told)


def test_a_set_under_another_name_in_the_run_file_is_found(left, tmp_path):
    """Image sets leave their files under their own name, whatever the run file calls them."""
    left("pictures", rows={"asked": 5, "unanswered": [1]}, status="done")
    run = left("mine", rows=None, status="done")
    run.labels["mine"] = "pictures"
    assert verdict(run, 0.0)[1] == "failed: m on mine: 4 of 5 rows were answered, not index 1"
