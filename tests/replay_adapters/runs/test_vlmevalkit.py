"""Runs of VLMEvalKit read back from tables that its own scorers wrote."""

import base64
import io
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.tables import row_of, told
from replay_core import UsageError

N = 40
RIGHT = ["A", "B"] * (N // 2)
ANSWERS = {"a": ["A"] * N, "b": ["A"] * 10 + ["B", "B"] * 2 + ["A", "B"] * 13}


def pictures() -> dict[str, list]:
    """Return a set of questions with two options, each asked four times."""
    return {
        "index": list(range(N)),
        "question": [f"question\u2028{i // 4}?" for i in range(N)],
        "A": ["yes"] * N,
        "B": ["no"] * N,
        "answer": RIGHT,
        "split": ["dev"] * 12 + ["validation"] * (N - 12),
    }


def hrbench() -> tuple[dict[str, list], dict[str, list]]:
    """Return HR-Bench's table for 12 questions in four rotations, and the answers of two runs.

    The last six are FCP's. b turns all rotations of one of them right, one of another.
    """
    rows, answers = [], {"a": [], "b": []}
    for index in range(48):
        question, cycle = index // 4, index % 4
        options = [f"shade {question}-{n}" for n in range(4)]
        turned = options[cycle:] + options[:cycle]
        letter = "ABCD"[turned.index(options[0])]
        wrong = "ABCD"[("ABCD".index(letter) + 1) % 4]
        right = {"a": question < 8, "b": question < 9 or (question == 9 and cycle == 2)}
        for name in answers:
            answers[name].append(letter if right[name] else wrong)
        rows.append(
            {
                "index": index,
                "question": "What colour is it?",
                **dict(zip("ABCD", turned, strict=True)),
                "answer": letter,
                "category": "single" if question < 6 else "cross",
                "cycle_category": cycle,
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}, answers


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two runs each of a set of one's own and of HR-Bench, scored by VLMEvalKit."""
    root = tmp_path_factory.mktemp("vlmevalkit")
    picture = io.BytesIO()
    Image.new("RGB", (28, 28)).save(picture, "PNG")
    patch = pytest.MonkeyPatch()
    patch.setenv("LMUData", str(root))
    patch.setenv("PRED_FORMAT", "tsv")
    from vlmeval.dataset import build_dataset
    from vlmeval.dataset.image_mcq import HRBenchDataset
    from vlmeval.smp import dump

    patch.setattr(HRBenchDataset, "DATASET_MD5", {})
    questions, answers = hrbench()
    for task, table, answered in (
        ("ReplayMCQ", pictures(), ANSWERS),
        ("HRBench4K", questions, answers),
    ):
        image = base64.b64encode(picture.getvalue()).decode()
        path = root / f"{task}.tsv"
        pd.DataFrame({**table, "image": image}).to_csv(path, sep="\t", index=False)
        dataset = build_dataset(task)
        for name, predictions in answered.items():
            folder = root / task / name / "M" / "T20260101_Gabc"
            folder.mkdir(parents=True)
            file = str(folder / f"M_{task}.tsv")
            dump(dataset.data.drop(columns="image").assign(prediction=predictions), file)
            dataset.evaluate(file, model="exact_matching", nproc=1)
    patch.undo()
    return root


@pytest.fixture
def own(scored, tmp_path):
    """The two runs of the set of one's own, to be changed."""
    return shutil.copytree(scored / "ReplayMCQ", tmp_path / "own")


def table_of(folder):
    return next(folder.rglob("*_exact_matching_result.tsv"))


def change(folder, **columns):
    """Write other values into a scorer's table: column → row → value."""
    path = table_of(folder)
    table = pd.read_csv(path, sep="\t")
    for column, values in columns.items():
        table[column] = table[column].astype(object)
        for row, value in values.items():
            table.loc[row, column] = value
    table.to_csv(path, sep="\t", index=False)


def test_two_runs_are_compared_from_the_harnesses_files(own):
    (found,) = compare_runs(own / "a", own / "b")
    row = row_of(found)
    hits = {
        k: np.array([p == r for p, r in zip(v, RIGHT, strict=True)]) for k, v in ANSWERS.items()
    }
    assert (found.a.harness, found.a.task, found.a.metric) == ("VLMEvalKit", "ReplayMCQ", "hit")
    assert row.n == N
    assert row.fixed == (~hits["a"] & hits["b"]).sum()
    assert row.broken == (hits["a"] & ~hits["b"]).sum() > 0
    assert row.difference == pytest.approx(hits["b"].mean() - hits["a"].mean())
    (clustered,) = compare_runs(own / "a", own / "b", cluster="question")
    assert clustered.report.clusters == 10


@pytest.mark.parametrize(
    ("bad", "said"),
    [(np.nan, "is nan"), ("inf", "is inf"), ("yes", "is 'yes'"), ("", "is nan"), (None, "is nan")],
)
@pytest.mark.parametrize("where", ["a", "b"])
def test_a_score_that_is_no_finite_number_is_refused_with_its_place(own, bad, said, where):
    change(own / where, hit={7: bad})
    with pytest.raises(UsageError, match=said) as refused:
        compare_runs(own / "a", own / "b")
    assert "metric 'hit' of task ReplayMCQ" in str(refused.value)
    assert "for document 7 in" in str(refused.value)
    assert str(table_of(own / where)) in str(refused.value)


def test_what_the_scorer_rejected_is_wrong_and_counted(own):
    before = row_of(compare_runs(own / "a", own / "b")[0])
    change(own / "b", hit={21: -1})  # was right in b, wrong in a
    (found,) = compare_runs(own / "a", own / "b")
    row = row_of(found)
    assert (row.unscored_a, row.unscored_b) == (0, 1)
    assert row.fixed == before.fixed - 1
    assert row.score_b == pytest.approx(before.score_b - 1 / N)
    assert "0 → 1, taken as wrong" in told(found)


def test_an_item_that_stands_twice_or_nowhere_is_refused(own):
    change(own / "b", index={5: 4})
    with pytest.raises(UsageError, match="document 4 of task ReplayMCQ stands twice in"):
        read_runs(own / "b")
    change(own / "a", index={5: np.nan})
    with pytest.raises(UsageError, match="of task ReplayMCQ has no index in"):
        read_runs(own / "a")


def test_a_part_of_a_set_is_a_metric(own):
    (found,) = compare_runs(own / "a", own / "b", metric="validation")
    hits = [float(a == r) for a, r in zip(ANSWERS["b"], RIGHT, strict=True)][12:]
    assert (found.a.metric, found.report.n) == ("validation", 28)
    assert found.report.score_b == pytest.approx(np.mean(hits))
    with pytest.raises(
        UsageError, match=r"has no scores by test beside .*parts of the set: .*split"
    ):
        read_runs(own / "a", metric="test")


def test_hrbenchs_fcp_half_is_compared_by_question(scored):
    runs = scored / "HRBench4K"
    (whole,) = compare_runs(runs / "a", runs / "b", metric="hit")
    assert (whole.report.n, whole.report.clusters) == (48, 12)
    (found,) = compare_runs(runs / "a", runs / "b")
    assert (found.a.metric, found.cluster) == ("cross", "question")
    report = found.report
    assert (report.n, report.clusters) == (24, 6)
    assert report.score_a == pytest.approx(8 / 24)
    assert report.score_b == pytest.approx(13 / 24)
    assert (report.table.fixed, report.table.broken) == (5, 0)
    assert report.p_value == 0.5  # two questions moved, both up: 2 of 4 signs


def test_settings_and_judge_are_compared_too(own):
    for name, pixels in (("a", 3136), ("b", 50176)):
        journal = own / name / "M" / "T20260101_Gabc" / "replay"
        journal.mkdir()
        settings = {"pair": "demo", "harness_arguments": {"min_pixels": pixels}}
        (journal / "settings.json").write_text(json.dumps(settings))
        line = {"index": 0, "predictions": ["a\u2028b\x85c"], "replay": [{"new_tokens": 7}]}
        text = json.dumps(line, ensure_ascii=False) + "\n"
        (journal / "ReplayMCQ.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"pixels differs .min_pixels is 3136 in one and 50176"):
        compare_runs(own / "a", own / "b")
    (run,) = read_runs(own / "a")
    assert run.items["0"].tokens == 7
    other = table_of(own / "b")
    other.rename(other.with_name(other.name.replace("exact_matching", "gpt-4o")))
    for name in "ab":
        next((own / name).rglob("settings.json")).unlink()
    with pytest.raises(UsageError, match=r"judge differs .judge is exact_matching .* gpt-4o"):
        compare_runs(own / "a", own / "b")


def test_a_folder_called_replay_further_up_is_not_the_runs_own(own):
    (own.parent / "replay").mkdir()
    (run,) = read_runs(own / "a")
    assert run.settings == {}


@pytest.mark.parametrize("suffix", [".xlsx", ".json"])
def test_a_table_that_was_cut_is_refused(own, suffix):
    path = table_of(own / "a")
    table = pd.read_csv(path, sep="\t")
    other = path.with_suffix(suffix)
    (table.to_excel if suffix == ".xlsx" else table.to_json)(other)
    os.truncate(other, 200)
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read as a table"):
        read_runs(own / "a")
