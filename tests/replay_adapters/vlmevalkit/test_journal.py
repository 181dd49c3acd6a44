"""What is on disk after kills, restarts and other settings."""

import numpy as np
import pytest

from replay_adapters.vlmevalkit.journal import Journal, plain
from replay_core import UsageError
from replay_core.jsonl import read_lines


def line(index, text="x"):
    return {"index": index, "predictions": [text], "replay": []}


def test_lines_of_all_processes_end_in_one_file_in_the_sets_order(tmp_path):
    for rank, indices in ((0, [7, 3]), (1, [5])):
        journal = Journal(tmp_path, "set", rank, 2)
        for index in indices:
            journal.add(line(index))
    Journal(tmp_path, "set.more", 0, 1).add(line(9))  # another set, whose name begins alike
    lines = Journal(tmp_path, "set").finish([3, 5, 7, 11])
    assert [x["index"] for x in lines] == [3, 5, 7]
    assert read_lines(tmp_path / "replay" / "set.jsonl") == lines
    assert [path.name for path in (tmp_path / "replay").glob("*.part")] == ["set.more.0of1.part"]


def test_what_a_kill_left_of_a_line_is_dropped_and_does_not_spoil_the_next(tmp_path):
    journal = Journal(tmp_path, "set")
    journal.add(line("a"))
    with (tmp_path / "replay" / "set.0of1.part").open("a") as file:
        file.write('{"index": "b", "predic')
    again = Journal(tmp_path, "set")
    assert list(again.begun()) == ["a"]
    again.add(line("c"))
    again.add(line("d"))
    assert list(Journal(tmp_path, "set").begun()) == ["a", "c", "d"]


def test_another_number_of_processes_goes_on_from_the_same_lines(tmp_path):
    Journal(tmp_path, "set", 1, 2).add(line(1))
    assert list(Journal(tmp_path, "set", 0, 1).begun()) == [1]


def test_a_sample_answered_anew_replaces_its_line_and_the_others_stay(tmp_path):
    journal = Journal(tmp_path, "set")
    journal.add(line(1))
    journal.add(line(2))
    journal.finish([1, 2])
    journal.add(line(2, "new"))
    assert [x["predictions"] for x in journal.finish([1, 2])] == [["x"], ["new"]]


def test_an_answer_wins_over_an_unreadable_one_whichever_process_gave_it(tmp_path):
    Journal(tmp_path, "set", 0, 1).add(line(1, "new"))
    unread = {"outcome": "unreadable_input", "error": "a.png: it has 0 by 0 pixels"}
    for rank in (0, 1):
        Journal(tmp_path, "set", rank, 2).add({**line(1, ""), "replay": [unread]})
    assert Journal(tmp_path, "set").begun()[1]["predictions"] == ["new"]
    assert Journal(tmp_path, "set").lines() == [line(1, "new")]


def test_a_folder_of_other_settings_is_refused(tmp_path):
    Journal(tmp_path, "set").check_settings("aaaa", {})
    Journal(tmp_path, "other").check_settings("aaaa", {})
    with pytest.raises(UsageError, match="made with settings aaaa, and this run has bbbb"):
        Journal(tmp_path, "set").check_settings("bbbb", {})


def test_numbers_of_numpy_become_plain():
    assert [type(plain(x)) for x in (np.int64(3), 3, "3")] == [int, int, str]
