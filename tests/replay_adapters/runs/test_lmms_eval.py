"""Runs of lmms-eval read back from files that the harness's own tracker and scorers wrote."""

import json
import os

import pytest

from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.tables import row_of
from replay_core import UsageError
from tests.support.lmms_eval_files import samples_file, write_run


@pytest.mark.parametrize(
    "answer", ["one\u2028two", "one\u2029two", "one\x85two", "a\x0bb\x0cc\x1cd"]
)
def test_answers_with_other_ends_of_lines_are_read(tmp_path, answer):
    rows = [{"accuracy": float(n % 2)} for n in range(20)]
    write_run(tmp_path / "a", rows, answer=answer)
    write_run(tmp_path / "b", [{"accuracy": 1.0}] * 20, answer=answer)
    text = samples_file(tmp_path / "a").read_text(encoding="utf-8")
    assert len(text.splitlines()) > 20 or "\\u" in text
    (found,) = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (row_of(found).n, row_of(found).fixed) == (20, 10)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (float("nan"), "is nan"),
        (float("inf"), "is inf"),
        (None, "is missing"),
        ("1.0", "is '1.0'"),
        ({"accuracy": float("nan"), "id": 1}, "is nan"),
        ({"score": None, "id": 1}, "is {'score': None"),
        ({"id": 1}, "is {'id': 1}"),
        ([1.0, 0.0], r"is \[1.0, 0.0\]"),
    ],
)
@pytest.mark.parametrize("where", ["a", "b"])
def test_a_score_that_is_no_finite_number_is_refused_with_its_place(tmp_path, bad, told, where):
    good = [{"accuracy": float(n % 2)} for n in range(8)]
    rows = [*good[:5], {"accuracy": bad}, *good[6:]]
    for name in "ab":
        write_run(tmp_path / name, rows if name == where else good)
    with pytest.raises(UsageError, match=told) as refused:
        compare_runs(tmp_path / "a", tmp_path / "b")
    said = str(refused.value)
    assert "metric 'accuracy' of task pictures" in said
    assert "for document 5" in said
    assert str(samples_file(tmp_path / where)) in said


def test_a_document_without_the_metric_is_refused_whatever_else_it_has(tmp_path):
    rows = [{"accuracy": 1.0, "format": 1.0}] * 4 + [{"format": 1.0}]
    with pytest.raises(UsageError, match="'accuracy' of task pictures is missing for document 4"):
        read_runs(write_run(tmp_path, rows, names=["accuracy", "format"]))


def test_a_document_that_stands_twice_is_refused(tmp_path):
    path = samples_file(write_run(tmp_path, [{"accuracy": 1.0}] * 4))
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    path.write_text("\n".join([*lines[:3], lines[1]]) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"document 1 of task pictures stands twice in .*jsonl"):
        read_runs(tmp_path)


@pytest.mark.parametrize("cut", [2, 30])
def test_a_file_that_was_cut_is_refused(tmp_path, cut):
    path = samples_file(write_run(tmp_path, [{"accuracy": 1.0}] * 4))
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(UsageError, match="holds 3 of the 4 documents that the run asked of task"):
        read_runs(tmp_path)


def test_a_last_line_that_was_cut_is_refused_where_the_run_tells_no_number(tmp_path):
    path = samples_file(write_run(tmp_path, [{"accuracy": 1.0}] * 4))
    (results,) = tmp_path.rglob("*_results.json")
    content = json.loads(results.read_text())
    del content["n-samples"]
    results.write_text(json.dumps(content))
    os.truncate(path, path.stat().st_size - 9)
    with pytest.raises(UsageError, match="holds no whole last line"):
        read_runs(tmp_path)


def test_a_line_or_a_results_file_that_is_no_json_is_refused(tmp_path):
    path = samples_file(write_run(tmp_path, [{"accuracy": 1.0}] * 4))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"doc_id": 2', b'"doc_id": '))
    with pytest.raises(UsageError, match="is no file of JSON lines"):
        read_runs(tmp_path)
    path.write_bytes(content)
    (results,) = tmp_path.rglob("*_results.json")
    os.truncate(results, 40)
    with pytest.raises(UsageError, match="is no whole JSON file"):
        read_runs(tmp_path)


def hrbench(questions: int, right, *, half=lambda question: question % 2) -> tuple[list, list]:
    """Return what HR-Bench's own scorer gives four rotations of each question, and the prompts.

    Every second question is of the half FCP, which the set calls ``cross``; all have one text.
    """
    from lmms_eval.tasks.hrbench.utils import hrbench_doc_to_text, hrbench_process_results

    metrics, asked = [], []
    for index in range(4 * questions):
        question, cycle = index % questions, index // questions
        options = [f"shade {question}-{n}" for n in range(4)]
        turned = options[cycle:] + options[:cycle]
        doc = {
            "index": index,
            "question": "What colour is the bag?",
            **dict(zip("ABCD", turned, strict=True)),
            "answer": "ABCD"[turned.index(options[0])],
            "category": ("single", "cross")[half(question)],
            "cycle_category": str(cycle),
        }
        answer = (
            doc["answer"] if right(question, cycle) else "ABCD"["ABCD".index(doc["answer"]) - 1]
        )
        metrics.append(hrbench_process_results(doc, [answer]))
        asked.append(hrbench_doc_to_text(doc))
    return metrics, asked


@pytest.fixture
def hrbench_runs(tmp_path):
    """a: right on FCP's questions 1, 5, 9 …; b: also on all rotations of 3, and on two of 7."""
    rules = {
        "a": lambda question, cycle: question % 4 == 1 or question % 2 == 0,
        "b": lambda q, cycle: q % 4 == 1 or q % 8 == 0 or q == 3 or (q == 7 and cycle < 2),
    }
    for name, right in rules.items():
        metrics, asked = hrbench(16, right)
        write_run(
            tmp_path / name,
            metrics,
            task="hrbench4k",
            names=["single", "cross", "average"],
            asked=asked,
        )
    return tmp_path / "a", tmp_path / "b"


def test_hrbenchs_fcp_half_is_compared_by_question(hrbench_runs):
    (found,) = compare_runs(*hrbench_runs, metric="cross")
    row = row_of(found)
    assert (row.n, row.clusters) == (32, 8)
    assert row.score_a == pytest.approx(16 / 32)
    assert row.score_b == pytest.approx((16 + 4 + 2) / 32)
    assert (row.fixed, row.broken) == (6, 0)
    # Two questions moved, by 4 and by 2: of four signs two are as extreme as what was seen.
    assert row.permutation_p == found.report.p_value == row.holm_p == 0.5


def test_hrbenchs_default_is_the_half_that_the_papers_number_is_of(hrbench_runs):
    (found,) = compare_runs(*hrbench_runs)
    row = row_of(found)
    assert (row.metric, row.n, row.cluster, row.clusters) == ("cross", 32, "question", 8)
    (whole,) = compare_runs(*hrbench_runs, metric="average")
    assert (whole.report.n, whole.report.clusters) == (64, 16)
    (single,) = compare_runs(*hrbench_runs, metric="single")
    assert (single.report.n, single.report.clusters) == (32, 8)
    assert (single.report.score_a, single.report.score_b) == (1.0, 0.25)
    assert single.report.table.broken == 24


def test_a_document_of_the_half_without_its_score_is_refused(hrbench_runs):
    path = samples_file(hrbench_runs[1])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert "cross" in lines[3]
    del lines[3]["cross"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UsageError, match="'cross' of task hrbench4k is missing for document 3"):
        compare_runs(*hrbench_runs, metric="cross")


def test_a_number_of_the_harness_that_is_no_mean_is_told(tmp_path):
    rows = [{"accuracy": float(n < 5)} for n in range(10)]
    folder = write_run(tmp_path, rows)
    (run,) = read_runs(folder)
    assert run.reported == 0.5
    assert run.own_number is None
    (results,) = folder.rglob("*_results.json")
    results.write_text(results.read_text().replace('"accuracy,none": 0.5', '"accuracy,none": 0.3'))
    (run,) = read_runs(folder)
    assert run.own_number == 0.3
