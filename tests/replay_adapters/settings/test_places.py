"""A place that cannot be written is told, and a name that would lead out of it."""

import pytest

from replay_adapters.settings.places import check_file, check_folder, check_name
from replay_core import UsageError

IMPOSSIBLE = ["x" * 256, "a/" + "ü" * 128, "a\0b", "\ud800"]


@pytest.mark.parametrize("check", [check_file, check_folder])
def test_what_can_be_made_is_accepted(tmp_path, monkeypatch, check):
    monkeypatch.chdir(tmp_path)
    for name in ("new", "new/deeper/still", "ü" * 127, ".hidden", tmp_path / "absolute"):
        check("--output", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("check", [check_file, check_folder])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_name_that_no_file_can_have_is_told(tmp_path, monkeypatch, check, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"--output=.* cannot be made \(allowed: at most 255 bytes"
    ):
        check("--output", name)


def test_a_file_in_the_place_of_a_folder_is_told_and_the_other_way_round(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file is a file \(allowed: a folder"):
        check_folder("--output", tmp_path / "file")
    with pytest.raises(UsageError, match=r" is a folder \(allowed: a file\)"):
        check_file("--output", tmp_path)
    for check in (check_file, check_folder):
        with pytest.raises(UsageError, match=r"cannot be made: .*file is no folder"):
            check("--output", tmp_path / "file" / "below" / "it")


@pytest.mark.parametrize("name", ["a", "Qwen2.5-VL-7B", "ü x", "x" * 100, "a..b", "~"])
def test_names_of_folders(name):
    check_name("it has the name", name)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/a", "a\\b", "\0", "a\nb", "\ud800"])
def test_no_names_of_folders(name):
    with pytest.raises(UsageError, match=r"it has the name .*which cannot be that of a folder"):
        check_name("it has the name", name)
