"""The scores of items and repeats, from files as scorers leave them."""

import pandas as pd
import pytest

from replay_adapters.vlmevalkit.journal import Journal, shown
from replay_adapters.vlmevalkit.scoring import item_scores, score_every_sample


class Dataset:
    """A set whose scorer looks for the answer in the prediction, and leaves a table of hits."""

    def __init__(self, column="hit"):
        self.column, self.scored = column, []

    def evaluate(self, eval_file, **judge):
        self.scored.append((eval_file, judge.pop("nproc")))
        table = pd.read_csv(eval_file, sep="\t")
        pairs = zip(table["answer"], table["prediction"], strict=True)
        table[self.column] = [float(answer in text) for answer, text in pairs]
        table.to_csv(eval_file.replace(".tsv", "_judge_result.tsv"), sep="\t", index=False)
        return {"acc": table[self.column].mean()}


def prepared(tmp_path):
    journal = Journal(tmp_path, "set")
    for index, texts in {7: ["A", "B", "A"], 2: ["C", "C", "D"]}.items():
        journal.add({"index": index, "predictions": texts, "replay": [{}, {}, {}]})
    journal.finish([7, 2])
    file = tmp_path / "model_set.tsv"
    table = {"index": [7, 2], "answer": ["A", "D"], "prediction": ["A", "C"]}
    pd.DataFrame(table).to_csv(file, sep="\t", index=False)
    return journal, file


def test_every_repeat_is_scored_by_the_sets_own_scorer(tmp_path):
    journal, file = prepared(tmp_path)
    dataset = Dataset()
    score_every_sample(dataset, journal)
    assert dataset.evaluate(str(file), nproc=4) == {"acc": 0.5}
    assert [n for _, n in dataset.scored] == [4, 4, 4]
    scores = {line["index"]: line["scores"] for line in journal.finish([7, 2])}
    assert scores == {7: [1.0, 0.0, 1.0], 2: [0.0, 0.0, 1.0]}
    # Who reads the run by its model's name finds the first repeat only.
    assert sorted(path.name for path in tmp_path.rglob("model_set*")) == [
        "model_set.tsv",
        "model_set_judge_result.tsv",
    ]


def test_a_scorer_that_tells_no_hits_leaves_no_scores(tmp_path):
    journal, file = prepared(tmp_path)
    dataset = Dataset("verdict")
    score_every_sample(dataset, journal)
    dataset.evaluate(str(file), nproc=1)
    assert all("scores" not in line for line in journal.finish([7, 2]))


def test_another_sets_table_beside_is_not_taken(tmp_path):
    _, file = prepared(tmp_path)
    table = pd.DataFrame({"index": [7], "score": [-1]})
    table.to_csv(tmp_path / "model_settled_result.tsv", sep="\t", index=False)
    assert item_scores(file) == {}
    table.to_csv(tmp_path / "model_set_score.tsv", sep="\t", index=False)
    assert item_scores(file) == {"7": 0.0}  # rejected by the scorer: not a hit


def test_an_empty_repeat_reaches_its_scorer_as_a_blank(tmp_path):
    journal, file = prepared(tmp_path)
    journal.add({"index": 7, "predictions": ["A", "", "A"], "replay": [{}, {}, {}]})
    journal.finish([7, 2])
    dataset = Dataset()
    score_every_sample(dataset, journal)
    dataset.evaluate(str(file), nproc=1)  # a NaN would be no text to look in
    scores = {line["index"]: line["scores"] for line in journal.finish([7, 2])}
    assert scores[7] == [1.0, 0.0, 1.0]


@pytest.fixture(params=["tsv", "xlsx"])
def predicted(harness, tmp_path, request):
    """Write a predictions file as the harness does; return its path and its table."""
    from vlmeval.smp import dump

    def write(rows):
        path = tmp_path / f"model_set.{request.param}"
        dump(pd.DataFrame(rows), str(path))
        return str(path)

    return write


def test_wemath_counts_a_blank_as_wrong(predicted):
    from vlmeval.dataset.utils.wemath import load_and_process_data

    texts = ["Answer: B", shown(""), "Answer: C", "B"]
    rows = [{"index": n, "answer": "B", "prediction": text} for n, text in enumerate(texts)]
    file = predicted(rows)
    assert load_and_process_data(file)["joker"].tolist() == [True, False, False, True]


def test_mlvu_counts_a_blank_as_wrong(predicted):
    from vlmeval.dataset import MLVU_MCQ

    texts = ["(B)", shown(""), "(A)", "B"]
    rows = [
        {
            **{"index": n, "question": "?", "answer": "two", "task_type": "plotQA"},
            **{"candidates": "['one', 'two']", "prediction": text},
        }
        for n, text in enumerate(texts)
    ]
    assert MLVU_MCQ.evaluate(predicted(rows), model="exact_matching") == {"plotQA": [2, 4]}


def test_an_answer_that_is_not_empty_stays_as_it_is():
    assert [shown(text) for text in ("", " ", "\n", "B", "None")] == [" ", " ", "\n", "B", "None"]
