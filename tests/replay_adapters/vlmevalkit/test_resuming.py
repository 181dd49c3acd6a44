"""Answers that depended on the moment are given again; all others are taken over."""

import pathlib
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from replay_adapters.session.session import Session, opened
from replay_adapters.vlmevalkit.journal import (
    Journal,
    ask_again,
    check_kept,
    take_over,
)
from replay_adapters.vlmevalkit.partials import read_partial, write_partial
from replay_core import UsageError
from replay_core.jsonl import read_lines
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
    write_partial(partial, {np.int64(1): "x", 2: "x", 4: "old"})
    assert take_over(journal, partial) == 2
    assert read_partial(partial) == {1: "x", 4: "old", 5: "x"}
    assert journal.passing() == {2, 3}


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def test_a_pickle_is_moved_aside_unread(tmp_path):
    """Also a torn one, or JSON of another form."""
    mark, partial = tmp_path / "ran", tmp_path / "01_set.pkl"
    journal = Journal(tmp_path, "set")
    journal.add(line(3))
    whole = pickle.dumps({1: Payload(mark)})
    for content in (whole, whole[:-5], b"", b'{"a": 1}', b"[1]"):
        partial.write_bytes(content)
        assert take_over(journal, partial) == 1
        assert read_partial(partial) == {3: "x"}
        assert (tmp_path / "01_set.pkl.aside").read_bytes() == content
    assert not mark.exists()
    pickle.loads(whole)
    assert mark.exists()  # the payload does run where it is read


def test_two_lasting_answers_to_a_sample_are_told(tmp_path):
    Journal(tmp_path, "set", 0, 2).add(line(1))
    Journal(tmp_path, "set", 1, 2).add(line(1, text="other"))
    with pytest.raises(
        UsageError, match=r"set.1of2.part, line 1 has other answers than an earlier"
    ):
        Journal(tmp_path, "set").begun()


def test_an_edited_line_is_told_before_anything_is_loaded(tmp_path):
    Journal(tmp_path / "mine", "set").add(line(1, text="4"))
    part = tmp_path / "mine" / "replay" / "set.0of1.part"
    check_kept(tmp_path / "mine", "f")
    part.write_text(part.read_text().replace('"4"', '"5"'))
    with pytest.raises(UsageError, match=r"set.0of1.part, line 1 is not as it was written"):
        check_kept(tmp_path / "mine", "f")


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"fingerprint"'])
def test_a_damaged_stamp_is_told(tmp_path, content):
    Journal(tmp_path, "set").check_settings("aaaa", {})
    (tmp_path / "replay" / "settings.json").write_text(content)
    with pytest.raises(UsageError, match=r"settings.json does not say with which settings"):
        Journal(tmp_path, "set").check_settings("aaaa", {})


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


def test_pickles_of_any_of_upstreams_names_are_never_read(answer, tmp_path):
    """In the job of the harness itself: before a run, and beside the results of one."""
    undisturbed = answer(tmp_path / "undisturbed")
    work, mark = tmp_path / "work", tmp_path / "ran"
    payload = pickle.dumps({1: Payload(mark)})
    names = ("01_pictures.pkl", "mine_pictures_PREV.pkl", "mine_pictures_checkpoint.pkl")
    work.mkdir()
    for _ in ("nothing is answered", "all is"):
        for name in names:
            (work / name).write_bytes(payload)
        assert answer(work) == undisturbed
    assert not mark.exists()
    assert {path.name for path in work.glob("*.aside")} >= {"01_pictures.pkl.aside"}
    assert not list(work.glob("*_pictures.pkl"))


def test_a_pickle_is_never_fetched(harness, tmp_path):
    from vlmeval import inference, inference_mt, inference_video

    for module in (inference, inference_mt, inference_video):
        with opened(Session()), pytest.raises(ValueError, match=r"x.pkl is not fetched: reading a"):
            module.load("https://nowhere.invalid/x.pkl")
