"""Answers that depended on the moment are given again; all others are taken over."""

import pickle

import pandas as pd
import pytest
import torch

from replay_adapters.vlmevalkit.journal import Journal, ask_again, read_lines, take_over
from replay_core.model.call import DecoderCall
from tests.replay_adapters.vlmevalkit.conftest import REPLAY


def line(index, *outcomes, text="x"):
    records = [{"outcome": outcome, "error": None} for outcome in outcomes or ("applied",)]
    return {"index": index, "predictions": [text] * len(records), "replay": records}


def test_what_depended_on_the_moment_is_not_taken_over(harness, tmp_path):
    """Of several samples of one item, one such is enough."""
    journal = Journal(tmp_path, "set")
    lines = (line(1), line(2, "out_of_memory"), line(3, "applied", "out_of_memory"), line(5))
    for each in lines:
        journal.add(each)
    partial = tmp_path / "01_set.pkl"
    partial.write_bytes(pickle.dumps({1: "x", 2: "x", 4: "old"}))
    assert take_over(journal, partial) == 2
    assert pickle.loads(partial.read_bytes()) == {1: "x", 4: "old", 5: "x"}
    assert journal.passing() == {2, 3}


def test_an_outcome_of_the_moment_stays_in_the_records_until_it_is_answered_again(tmp_path):
    journal = Journal(tmp_path, "set", 0, 2)
    journal.add(line(1, "out_of_memory"))
    journal.add(line(2))
    assert [x["index"] for x in journal.finish([1, 2])] == [1, 2]
    assert journal.passing() == {1}
    journal.add(line(1, text="new"))
    Journal(tmp_path, "set", 1, 2).add(line(1, "out_of_memory"))  # of a part that is read later
    assert journal.passing() == set()
    assert [x["predictions"] for x in journal.finish([1, 2])] == [["new"], ["x"]]


def test_a_record_with_an_error_is_of_the_moment(tmp_path):
    journal = Journal(tmp_path, "set")
    journal.add({**line(1), "replay": [{"outcome": "applied", "error": "the file is gone"}]})
    assert journal.begun() == {}


def test_predictions_without_such_answers_are_left_as_they_are(harness, tmp_path):
    journal = Journal(tmp_path, "set")
    journal.add(line(1))
    journal.finish([1])
    predictions = tmp_path / "set.tsv"
    predictions.write_text("index\tprediction\n1\t x\n")
    ask_again(journal, predictions)
    assert predictions.read_text() == "index\tprediction\n1\t x\n"


@pytest.fixture
def answer(harness, tiny_model, sets, monkeypatch):
    """Run VLMEvalKit's own job in this process on four pictures; return what it left."""
    from vlmeval import inference
    from vlmeval.config import supported_VLM
    from vlmeval.dataset import CustomMCQDataset

    from replay_adapters.vlmevalkit import register

    for name, value in sets.environment().items():
        monkeypatch.setenv(name, value)
    entry = tiny_model(**REPLAY, dtype="float32")
    entry.pop("class")
    register({"mine": entry})

    def run(work):
        work.mkdir(exist_ok=True)
        inference.infer_data_job(
            "mine",
            str(work),
            "mine",
            CustomMCQDataset("pictures"),
            limit=4,
        )
        table = pd.read_csv(work / "mine_pictures.tsv", sep="\t", keep_default_na=False)
        lines = read_lines(work / "replay" / "pictures.jsonl")
        return list(table["prediction"]), [x["replay"][0]["outcome"] for x in lines]

    yield run
    del supported_VLM["mine"]


def test_a_finished_set_is_finished_again_where_memory_ran_out(answer, tmp_path, monkeypatch):
    asked = []
    activations = DecoderCall.activations

    def sometimes(*arguments, **options):
        asked.append(1)
        if 3 <= len(asked) <= 4:
            raise torch.cuda.OutOfMemoryError("no room")
        return activations(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderCall, "activations", sometimes)
        first, outcomes = answer(tmp_path / "work")
    assert 0 < outcomes.count("out_of_memory") < len(outcomes) == 4
    asked.clear()
    again, outcomes_again = answer(tmp_path / "work")
    undisturbed, _ = answer(tmp_path / "undisturbed")
    assert outcomes_again == ["applied"] * 4
    assert again == undisturbed
    assert [a for a, o in zip(first, outcomes, strict=True) if o == "applied"] == [
        a for a, o in zip(again, outcomes, strict=True) if o == "applied"
    ]
