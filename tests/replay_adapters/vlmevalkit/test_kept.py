"""What earlier runs left, and where results go, is looked at before anything is loaded."""

import json

import pytest

from replay_adapters.vlmevalkit.journal import Journal, check_kept
from replay_core import UsageError
from tests.replay_adapters.vlmevalkit.conftest import PICTURES, write_run_file
from tests.replay_adapters.vlmevalkit.test_launcher import refused as refused

LINE = {"index": 1, "predictions": ["x"], "replay": []}


def test_what_runs_leave_is_accepted(tmp_path):
    journal = Journal(tmp_path, "set")
    journal.check_settings("aaaa", {})
    journal.add(LINE)
    check_kept(tmp_path, "aaaa")
    journal.finish([1])
    journal.rewrite([{**LINE, "scores": [1.0]}])
    check_kept(tmp_path, "aaaa")
    check_kept(tmp_path / "new", "aaaa")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("settings.json", "junk", "does not say with which settings"),
        ("settings.json", "[" * 9999, "does not say with which settings"),
        (
            "settings.json",
            '{"fingerprint": "bbbb"}',
            "made with settings bbbb, and this run has aaa",
        ),
        ("settings.json", None, r"settings.json is a folder \(allowed: a file\)"),
        ("set.0of1.part", None, r"set.0of1.part is a folder \(allowed: a file\)"),
        ("set.0of1.part", "\n\njunk\n", "set.0of1.part, line 3 is not as it was written"),
        ("set.0of1.turns", None, r"set.0of1.turns is a folder \(allowed: a file\)"),
        ("set.0of1.turns", "{}\n", "set.0of1.turns, line 1 is not as it was written"),
        ("set.jsonl", None, r"set.jsonl is a folder \(allowed: a file\)"),
        ("set.jsonl", json.dumps(LINE) + "\njunk\n", "set.jsonl, line 2: it is not JSON"),
        ("set.jsonl", '{"index": 1}\n', "set.jsonl, line 1: predictions is missing"),
        ("set.jsonl", json.dumps({**LINE, "index": [1]}) + "\n", r"line 1: index=\[1\]"),
    ],
)
def test_what_cannot_be_gone_on_from_is_told(tmp_path, name, content, words):
    path = tmp_path / "replay" / name
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(UsageError, match=words):
        check_kept(tmp_path, "aaaa")


def test_two_answers_to_a_sample_are_told(tmp_path):
    Journal(tmp_path, "set", 0, 2).add(LINE)
    Journal(tmp_path, "set", 1, 2).add({**LINE, "predictions": ["y"]})
    with pytest.raises(
        UsageError, match=r"set.1of2.part, line 1 has other answers than an earlier"
    ):
        check_kept(tmp_path, "aaaa")


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "replay").write_text("")
    with pytest.raises(UsageError, match=r"replay is a file \(allowed: a folder"):
        check_kept(tmp_path, "aaaa")
    with pytest.raises(UsageError, match=r"cannot be made: .*replay is no folder"):
        check_kept(tmp_path / "replay", "aaaa")


def test_the_command_tells_it(refused, tiny_model, tmp_path, monkeypatch):
    """Before its run script begins."""
    from replay_adapters.vlmevalkit import launcher

    monkeypatch.chdir(tmp_path)
    file = write_run_file(tmp_path / "run.json", {"tiny": tiny_model(replay_layers=3)}, PICTURES)
    words = ["--config", str(file), "--work-dir", str(tmp_path / "work")]
    (model,) = launcher.prepare(words).models
    stamp = tmp_path / "work" / model / "replay" / "settings.json"
    stamp.parent.mkdir(parents=True)
    stamp.write_text("junk")
    assert f"{stamp} does not say with which settings" in refused(*words)


@pytest.mark.parametrize(
    "name", ["../../../escaped", "/tmp/escaped", "a/b", "a\0b", "x" * 101, " "]
)
def test_no_name_of_a_run_file_leaves_the_work_folder(refused, tiny_model, tmp_path, name):
    entry, pictures = tiny_model(replay_layers=3), PICTURES["pictures"]
    for models, data in (
        ({name: entry}, PICTURES),
        ({"tiny": entry}, {name: pictures}),
        ({"tiny": entry}, {"pictures": {**pictures, "dataset": name}}),
    ):
        file = write_run_file(tmp_path / "run.json", models, data)
        told = refused("--config", str(file), "--work-dir", str(tmp_path / "work"))
        assert "which cannot be that of a folder (allowed: at most 100 bytes" in told
    assert not (tmp_path / "work").exists()


def test_no_set_of_the_command_line_leaves_the_work_folder(refused):
    told = refused("--model", "demo-replay", "--data", "../escaped")
    assert "--data has the name ../escaped, which cannot be that of a folder" in told


def test_a_run_file_of_many_models_has_a_copy(tiny_model, tmp_path):
    """Whose name would be longer than a file's may be."""
    from replay_adapters.vlmevalkit import launcher

    models = {f"m{n}": tiny_model(replay_layers=3, replay_steps=n) for n in range(1, 31)}
    file = write_run_file(tmp_path / "run.json", models, PICTURES)
    run = launcher.prepare(["--config", str(file), "--work-dir", str(tmp_path / "work")])
    copy = json.loads((tmp_path / "work" / run.argv[-1].rpartition("/")[2]).read_text())
    assert list(copy["model"]) == run.models
