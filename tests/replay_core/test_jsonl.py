"""Lines end at line feeds alone, and a kill costs one line at most."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.samples import read_samples
from replay_core import UsageError
from replay_core.jsonl import Appending, Sealed, read_lines, read_sealed

# All at which str.splitlines breaks but "\n"; the answers of models hold them.
BREAKS = ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r\n"]


def test_an_answer_may_hold_any_character(tmp_path):
    answers = [f"before{mark}after" for mark in BREAKS]
    assert all(len(answer.splitlines()) == 2 for answer in answers)
    file = Appending(tmp_path / "a.jsonl")
    for answer in answers:
        file.add({"answer": answer})
    assert [line["answer"] for line in read_lines(file.path)] == answers


def test_other_writers_files_are_read_too(tmp_path):
    """With carriage returns, empty lines, a byte order mark, or no line feed at the end."""
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"a": "é\u2028"}\r\n\n  \n{"a": 2}'.encode())
    assert read_lines(path) == [{"a": "é\u2028"}, {"a": 2}]
    assert read_lines(tmp_path / "none") == []


@pytest.mark.parametrize("cut", range(1, len('{"a": "ü"}'.encode())))
def test_whatever_a_kill_leaves_of_a_line_goes(tmp_path, cut):
    """Also half of a character."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + '{"a": "ü"}'.encode()[:cut])
    assert read_lines(path) == [{"a": 1}]
    Appending(path).add({"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 3}]


def test_a_line_that_lacks_only_its_line_feed_is_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    Appending(path).add({"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_spoilt_line_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(json.JSONDecodeError):
        read_lines(path)


FILLING = """
import resource, sys
from replay_core.jsonl import Appending

file = Appending(__import__("pathlib").Path(sys.argv[1]))
file.add({"a": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))
try:
    file.add({"a": 2})
except OSError:
    print("full")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
file.add({"a": 3})
"""


def test_a_line_that_did_not_fit_on_the_disk_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    command = [sys.executable, "-c", FILLING, str(path)]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert ended.stdout == "full\n"
    assert read_lines(path) == [{"a": 1}, {"a": 3}]


WRITING = """
import sys
from pathlib import Path
from replay_core.jsonl import Appending

file = Appending(Path(sys.argv[1]))
for number in range(100):
    file.add({"by": sys.argv[2], "n": number, "text": sys.argv[2] * 30_000})
"""


def test_two_processes_that_append_to_one_file_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    Appending(path).add({"by": "first"})
    words = [sys.executable, "-c", WRITING, str(path)]
    writers = [subprocess.Popen([*words, name], env=os.environ) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = read_lines(path)[1:]
    assert sorted((line["by"], line["n"]) for line in lines) == [
        (name, number) for name in "ab" for number in range(100)
    ]
    assert all(line["text"] == line["by"] * 30_000 for line in lines)


def lmms_eval_files(folder: Path, answers: list[str]) -> Path:
    """Write what lmms-eval leaves of a run, whose samples file holds any character unescaped."""
    results = {"configs": {"t": {"metric_list": [{"metric": "score"}]}}}
    (folder / "2026_results.json").write_text(json.dumps(results))
    path = folder / "2026_samples_t.jsonl"
    rows = [{"doc_id": n, "resps": [text], "score": 1.0} for n, text in enumerate(answers)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), newline="")
    return path


def test_a_finished_run_is_read_whatever_its_answers_hold(tmp_path):
    lmms_eval_files(tmp_path, BREAKS)
    (run,) = read_runs(tmp_path)
    assert [run.items[n].answers for n in range(len(BREAKS))] == [[mark] for mark in BREAKS]


def test_samples_are_read_whatever_stands_in_them(tmp_path):
    path = tmp_path / "plain.jsonl"
    rows = [{"document": f"d{mark}", "correct": True} for mark in BREAKS]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), newline="")
    assert read_samples(path) == {row["document"]: [1.0] for row in rows}


def test_a_finished_file_that_is_cut_is_refused_and_not_read_short(tmp_path):
    path = lmms_eval_files(tmp_path, ["a", "b"])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match=r"2026_samples_t\.jsonl is not a whole file"):
        read_samples(path)
    with pytest.raises(UsageError, match=r"2026_samples_t\.jsonl holds no whole last line"):
        read_runs(tmp_path)


class Form(BaseModel):
    """What a sealed line of these tests holds."""

    key: str
    answer: str


def sealed(path, *answers):
    for number, answer in enumerate(answers):
        Sealed(path, Form).add({"key": str(number), "answer": answer})
    return path


def test_sealed_lines_come_back_as_they_were(tmp_path):
    answers = ["4", *BREAKS, '", "crc32": "00000000"}', "ü"]
    path = sealed(tmp_path / "a.jsonl", *answers)
    found = list(read_sealed(path, Form))
    assert found == [(n, {"key": str(n - 1), "answer": a}) for n, a in enumerate(answers, 1)]
    assert [line["answer"] for line in read_lines(path)] == answers  # JSON all the same


def test_a_changed_byte_anywhere_in_a_sealed_line_is_told_with_its_number(tmp_path):
    path = sealed(tmp_path / "a.jsonl", "one", "two", "three")
    content = path.read_bytes()
    begin = content.index(b"\n") + 1
    end = content.index(b"\n", begin)
    for place in range(begin, end):
        changed = bytearray(content)
        changed[place] = ord("7") if changed[place] != ord("7") else ord("8")
        path.write_bytes(changed)
        with pytest.raises(UsageError, match=r"a.jsonl, line 2 is not as it was written \(it"):
            list(read_sealed(path, Form))


def test_what_a_kill_left_of_a_sealed_line_goes_with_a_note(tmp_path, caplog):
    path = sealed(tmp_path / "a.jsonl", "one", "two")
    content = path.read_bytes()
    second = content.index(b"\n") + 1
    for cut in range(second + 1, len(content) - 1):
        path.write_bytes(content[:cut])
        caplog.clear()
        assert [number for number, _ in read_sealed(path, Form)] == [1]
        assert "line 2 was cut by a kill and is left out" in caplog.text
    sealed(path, "again")
    assert [line["answer"] for _, line in read_sealed(path, Form)] == ["one", "again"]


def test_a_line_of_another_form_is_told_with_its_number(tmp_path):
    path = sealed(tmp_path / "a.jsonl", "one")
    Sealed(path, Form).add({"key": "1", "answer": 4})
    with pytest.raises(UsageError, match=r"a.jsonl, line 2: answer=4: Input should be a valid str"):
        list(read_sealed(path, Form))
    Appending(tmp_path / "b").add({"key": "1", "answer": "4"})
    with pytest.raises(UsageError, match=r"b, line 1 is not as it was written \(it has no checks"):
        list(read_sealed(tmp_path / "b", Form))
