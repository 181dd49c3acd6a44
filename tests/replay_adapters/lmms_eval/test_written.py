"""A run whose files are not whole has not succeeded, whatever the harness says."""

import json

import pytest

from replay_adapters.lmms_eval.written import incomplete
from tests.replay_adapters.lmms_eval.test_end_to_end import arguments

RESULTS = {"date": "2026-01-02T03:04:05", "model_name_sanitized": "me__mine", "results": {"t": {}}}
SAMPLES = {"t": [{"doc_id": 0}, {"doc_id": 1}], "empty": []}


@pytest.fixture
def written(tmp_path):
    """Both files, whole."""
    folder = tmp_path / "me__mine"
    folder.mkdir()
    results = folder / "2026-01-02T03-04-05_results.json"
    results.write_text(json.dumps(RESULTS, indent=2))
    samples = folder / "2026-01-02T03-04-05_samples_t.jsonl"
    rows = [{"doc_id": 0, "answer": "one\u2028two"}, {"doc_id": 1}]
    samples.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return tmp_path, results, samples


def test_whole_files_are_no_failure(written):
    folder, _, samples = written
    assert incomplete(str(folder), RESULTS, SAMPLES) == []
    samples.unlink()
    assert incomplete(str(folder), RESULTS, None) == []  # without --log_samples


@pytest.mark.parametrize("kept", [0, 1, 30, -1])
def test_a_cut_results_file_is_named(written, kept):
    folder, results, _ = written
    results.write_bytes(results.read_bytes()[:kept])
    assert incomplete(str(folder), RESULTS, SAMPLES) == [f"{results} is cut off; is the disk full?"]


def test_results_of_another_task_are_not_this_runs(written):
    folder, results, _ = written
    more = {**RESULTS, "results": {"t": {}, "u": {}}}
    assert incomplete(str(folder), more, SAMPLES) == [f"{results} lacks u"]


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (0, "holds 0 samples of 2; is the disk full?"),
        (5, "is cut off; is the disk full?"),
        (-3, "is cut off; is the disk full?"),
        ("line", "holds 1 samples of 2; is the disk full?"),
    ],
)
def test_a_cut_samples_file_is_named(written, kept, told):
    folder, _, samples = written
    content = samples.read_bytes()
    samples.write_bytes(content[: content.find(b"\n") + 1 if kept == "line" else kept])
    assert incomplete(str(folder), RESULTS, SAMPLES) == [f"{samples} {told}"]


def test_missing_files_are_named(written):
    folder, results, samples = written
    results.unlink()
    samples.unlink()
    told = [f"{path} was not written" for path in (results, samples)]
    assert incomplete(str(folder), RESULTS, SAMPLES) == told


def test_a_disk_that_is_full_at_the_end_fails_the_run(several_lmms_evals, tiny_pairs):
    given = arguments(tiny_pairs["qwen2_vl"], "replay_method=none")
    tasks = ("replay_test_room_for_results", "replay_test_room_for_nothing")
    runs = several_lmms_evals([("ours", "qwen2_vl_replay", given, task) for task in tasks])
    for run, task, sizes in zip(runs, tasks, ({"jsonl": 16_384}, {"json": 2_048}), strict=True):
        assert run.code == 1, run.output
        told = [line for line in run.output.split("\n") if line.startswith("lmms_eval: failed: ")]
        (line,) = (line for line in told if task in line)
        for ending, size in sizes.items():
            (file,) = run.folder.rglob(f"*.{ending}")
            assert file.stat().st_size == size
            assert f"{file} is cut off; is the disk full?" in line
    assert json.loads(next(runs[0].folder.rglob("*_results.json")).read_text())["replay"]
