"""A killed run is finished from its journal, and nothing else is ever taken from one."""

import hashlib
import json
import sys

import pytest
import torch

from replay_adapters.lmms_eval.journal import BatchJournal, BatchLine
from replay_core import Outcome, ReplayRecord, UsageError
from replay_core.jsonl import Sealed
from tests.replay_adapters.conftest import REPLAY, Command, Ended
from tests.replay_adapters.lmms_eval.test_end_to_end import arguments

RECORD = ReplayRecord(
    pair="p",
    policy_revision="a",
    base_revision="b",
    config_hash="c",
    versions={},
    method="replay",
    outcome="applied",
    masked_fraction={0: 0.5},
)
INPUTS = {"input_ids": torch.tensor([[1, 2], [3, 4]]), "pixel_values": torch.rand(2, 3)}
GENERATION = {"max_new_tokens": 5, "do_sample": False}


def kept(path, fingerprint: str = "f", answers=((7, 8, 9), (5, 0, 0))) -> str:
    journal = BatchJournal(path, fingerprint)
    key = journal.key(INPUTS, GENERATION, [0, 1])
    journal.keep(key, torch.tensor(answers), [RECORD, RECORD])
    return key


def test_a_batch_comes_back_as_generate_returned_it(tmp_path):
    key = kept(tmp_path / "j")
    output, records = BatchJournal(tmp_path / "j", "f").find(key, INPUTS["input_ids"])
    assert output.tolist() == [[1, 2, 7, 8, 9], [3, 4, 5, 0, 0]]
    assert records == [RECORD, RECORD]


def test_answers_without_a_token_come_back_too(tmp_path):
    key = kept(tmp_path / "j", answers=((), ()))
    output, _ = BatchJournal(tmp_path / "j", "f").find(key, INPUTS["input_ids"])
    assert output.tolist() == INPUTS["input_ids"].tolist()


@pytest.mark.parametrize("part", ["pixels", "prompt", "seeds", "generation", "fingerprint"])
def test_another_batch_is_not_known(tmp_path, part):
    key = kept(tmp_path / "j")
    inputs, generation, seeds, fingerprint = dict(INPUTS), dict(GENERATION), [0, 1], "f"
    if part == "pixels":
        inputs["pixel_values"] = inputs["pixel_values"] + 1e-3
    elif part == "prompt":
        inputs["input_ids"] = inputs["input_ids"].flip(0)
    elif part == "seeds":
        seeds = [0, 2]
    elif part == "generation":
        generation["max_new_tokens"] = 6
    else:
        fingerprint = "g"
    journal = BatchJournal(tmp_path / "j", fingerprint)
    assert journal.key(INPUTS, GENERATION, [0, 1]) == key or part == "fingerprint"
    other = journal.key(inputs, generation, seeds)
    assert journal.find(other, inputs["input_ids"]) is None


def test_a_torn_line_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "j"
    key = kept(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    journal = BatchJournal(path, "f")
    assert journal.find(key, INPUTS["input_ids"]) is not None
    journal.keep("0" * 64, torch.tensor([[1]]), [RECORD])
    assert [json.loads(line)["key"] for line in path.open()] == [key, "0" * 64]


def test_the_journals_of_all_processes_are_read(tmp_path):
    """By whichever process goes on, so that two that are continued by one repeat nothing."""
    key = kept(tmp_path / "j")
    (tmp_path / "j").rename(tmp_path / "j.1")
    (tmp_path / "j.notes").write_text("not ours")
    assert BatchJournal(tmp_path / "j", "f").find(key, INPUTS["input_ids"]) is not None


def test_other_answers_to_a_batch_are_told_and_equal_ones_are_not(tmp_path):
    kept(tmp_path / "j")
    kept(tmp_path / "other")
    second = (tmp_path / "other").read_bytes()
    with (tmp_path / "j").open("ab") as file:
        file.write(second)
    BatchJournal(tmp_path / "j", "f")
    kept(tmp_path / "third", answers=((7, 8, 9), (5, 0, 1)))
    with (tmp_path / "j").open("ab") as file:
        file.write((tmp_path / "third").read_bytes())
    with pytest.raises(UsageError, match=r"j, line 3 has other answers than an earlier line"):
        BatchJournal(tmp_path / "j", "f")


def test_an_answer_that_was_edited_is_told(tmp_path):
    kept(tmp_path / "j")
    text = (tmp_path / "j").read_text()
    (tmp_path / "j").write_text(text.replace("[7, 8, 9]", "[7, 8, 8]"))
    with pytest.raises(UsageError, match=r"j, line 1 is not as it was written \(its checksum"):
        BatchJournal(tmp_path / "j", "f")


LOST = RECORD.model_copy(update={"outcome": Outcome.OUT_OF_MEMORY, "error": "no room"})


@pytest.mark.parametrize(
    "record",
    [
        LOST,
        RECORD.model_copy(update={"outcome": Outcome.OUT_OF_MEMORY}),
        RECORD.model_copy(update={"error": "the file is gone"}),
    ],
)
def test_a_batch_with_an_outcome_of_the_moment_is_answered_again(tmp_path, record):
    """Also where an earlier version kept it."""
    path = tmp_path / "j"
    journal = BatchJournal(path, "f")
    key = journal.key(INPUTS, GENERATION, [0, 1])
    journal.keep(key, torch.tensor([[7], [8]]), [RECORD, record])
    assert not path.exists()
    old = {"key": key, "answers": [[7], [8]], "records": []}
    old["records"] = [each.model_dump(mode="json") for each in (RECORD, record)]
    Sealed(path, BatchLine).add(old)
    assert BatchJournal(path, "f").find(key, INPUTS["input_ids"]) is None
    BatchJournal(path, "f").keep(key, torch.tensor([[5], [6]]), [RECORD, RECORD])
    output, _ = BatchJournal(path, "f").find(key, INPUTS["input_ids"])
    assert output[:, 2:].tolist() == [[5], [6]]


def test_other_outcomes_are_kept(tmp_path):
    passing = {Outcome.OUT_OF_MEMORY, Outcome.FAILED, Outcome.UNREADABLE_INPUT}
    for outcome in set(Outcome) - passing:
        journal = BatchJournal(tmp_path / "j", "f")
        record = RECORD.model_copy(update={"outcome": outcome})
        key = hashlib.sha256(outcome.value.encode()).hexdigest()
        journal.keep(key, torch.tensor([[7], [8]]), [record, RECORD])
        assert BatchJournal(tmp_path / "j", "f").find(key, INPUTS["input_ids"]) is not None


FAULTY = """
import sys
import torch
from replay_adapters.lmms_eval import launcher
from replay_core.model.call import DecoderCall

activations, asked = DecoderCall.activations, []

def sometimes(*arguments, **options):
    asked.append(1)
    if len(asked) <= 2:
        raise torch.cuda.OutOfMemoryError("no room")
    return activations(*arguments, **options)

sys.argv[0] = "lmms_eval"
DecoderCall.activations = sometimes
arguments = list(sys.argv)
for folder, code in (("first", 3), ("again", None)):
    sys.argv[1:] = [*arguments[1:], "--output_path", folder]
    try:
        launcher.main()
    except SystemExit as ended:
        assert ended.code == code, ended.code
"""


def test_where_memory_ran_out_neither_journal_nor_cache_keeps_the_answer(
    lmms_eval_command, tiny_pairs
):
    given = arguments(tiny_pairs["qwen2_5_vl"], REPLAY, "dtype=float32", "replay_journal=answers")
    command = lmms_eval_command(
        "qwen2_vl_replay",
        given,
        "replay_test_pictures",
        "--batch_size",
        "2",
        "--use_cache",
        "cache",
    )
    script = [sys.executable, "-c", FAULTY, *command.words[3:]]
    ended = Command(script, command.folder).run()
    assert ended.code == 0, ended.output
    first, again = (Ended(0, "", command.folder / name) for name in ("first", "again"))
    outcomes = [record["outcome"] for record in first.records]
    lost = outcomes.count("out_of_memory")
    assert 0 < lost < 6
    assert [record["outcome"] for record in again.records] == ["applied"] * lost
    assert f"{6 - lost}/6 cache hits" in ended.output
    for document, sample in first.samples.items():
        if sample["replay"][0]["outcome"] == "applied":
            assert again.samples[document]["replay"] == []  # served from the cache
            assert again.answers[document] == first.answers[document]


def test_a_batch_that_is_answered_twice_in_a_run_is_kept_once(tmp_path):
    """The second answer may be another on a GPU, at which the next start would stumble."""
    journal = BatchJournal(tmp_path / "j", "f", rank=1)
    for answers in ([[7], [8]], [[7], [9]]):
        key = journal.key(INPUTS, GENERATION, [0, 1])
        journal.keep(key, torch.tensor(answers), [RECORD, RECORD])
    output, _ = BatchJournal(tmp_path / "j", "f").find(key, INPUTS["input_ids"])
    assert output[:, 2:].tolist() == [[7], [8]]


def test_a_folder_in_the_place_of_another_processes_file_is_told(tmp_path):
    (tmp_path / "j.1").mkdir()
    with pytest.raises(UsageError, match=r"j.1 is a folder \(allowed: a file\)"):
        BatchJournal(tmp_path / "j", "f")


def test_processes_have_files_of_their_own(tmp_path):
    BatchJournal(tmp_path / "j", "f", rank=1).keep("k", torch.tensor([[1]]), [RECORD])
    assert [path.name for path in tmp_path.iterdir()] == ["j.1"]


@pytest.mark.parametrize("content", ["[1]\n", "no json\n", '{"answers": []}\n'])
def test_a_file_that_is_no_journal_is_refused(tmp_path, content):
    (tmp_path / "j").write_text(content)
    with pytest.raises(UsageError, match="j, line 1 is not as it was written"):
        BatchJournal(tmp_path / "j", "f")


def test_a_killed_run_is_finished_from_its_journal(lmms_eval_command, lmms_eval, tiny_pairs):
    given = arguments(tiny_pairs["qwen2_5_vl"], REPLAY, "dtype=float32", "replay_journal=answers")
    command = lmms_eval_command("qwen2_vl_replay", given, "replay_test_pictures")
    journal = command.folder / "answers"

    def lines() -> list[str]:
        return journal.read_text().split("\n")[:-1] if journal.is_file() else []

    assert command.run_until(lambda: len(lines()) >= 3) == -9
    assert not list(command.folder.rglob("*_results.json"))
    before = [json.loads(line) for line in lines() if line.endswith("}")]
    assert 3 <= len(before) < 6
    ended = command.run()
    assert ended.code == 0, ended.output
    assert len(lines()) == 6
    assert [json.loads(line) for line in lines()][: len(before)] == before
    undisturbed = lmms_eval("qwen2_vl_replay", given, "replay_test_pictures")
    assert ended.answers == undisturbed.answers
    for one, other in zip(ended.records, undisturbed.records, strict=True):
        drop = {"seconds"}
        assert {k: v for k, v in one.items() if k not in drop} == {
            k: v for k, v in other.items() if k not in drop
        }
