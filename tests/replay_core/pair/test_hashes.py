"""A file that was not written since is not read again, in this process or in a later one."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from replay_core.pair import hashes
from replay_core.pair.hashes import content_digest, kept_in
from replay_core.pair.identity import folder_digest

LARGE = 2**20 + 7


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as written long ago; the clocks of file systems tick in milliseconds."""
    monkeypatch.setattr(hashes, "_UNSETTLED_NS", 0)


@pytest.fixture
def weights(tmp_path: Path, home: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = folder / "model.safetensors"
    file.write_bytes(os.urandom(LARGE))
    time.sleep(0.02)
    return file


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def later(monkeypatch: pytest.MonkeyPatch, *, reads: bool = False) -> None:
    """Forget what this process knows; in it, a file must not be read unless ``reads``."""
    hashes._known.cache_clear()
    if not reads:
        monkeypatch.setattr(hashes, "_hashed", lambda path: pytest.fail(f"{path} is read again"))


def rewritten(file: Path, way: str) -> None:
    """Change one bit, and set size and time back."""
    content, stat = file.read_bytes(), file.stat()
    time.sleep(0.02)
    target = file if way == "in_place" else file.parent.parent / "other"
    target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    target.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize("long_ago", [False, True], ids=["just_written", "long_ago"])
@pytest.mark.parametrize("way", ["in_place", "replaced"])
@pytest.mark.parametrize("another_process", [False, True])
def test_a_file_with_its_size_and_time_kept_is_still_read_anew(
    weights: Path, monkeypatch: pytest.MonkeyPatch, long_ago: bool, way: str, another_process: bool
) -> None:
    if long_ago:
        monkeypatch.setattr(hashes, "_UNSETTLED_NS", 0)
    first = folder_digest(weights.parent)
    assert folder_digest(weights.parent) == first
    rewritten(weights, way)
    if another_process:
        later(monkeypatch, reads=True)
    assert folder_digest(weights.parent) != first
    assert content_digest(weights) == sha256(weights)


def test_a_process_reads_a_file_once(
    weights: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder_digest(weights.parent)
    monkeypatch.setattr(hashes, "_hashed", lambda path: pytest.fail(f"{path} is read again"))
    assert folder_digest(weights.parent) == first


def test_a_later_process_reads_a_large_file_no_more(
    weights: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content_digest(weights)
    later(monkeypatch)
    assert (
        content_digest(weights)
        == first
        == bytes.fromhex(hashlib.sha256(weights.read_bytes()).hexdigest())
    )
    link = weights.parent / "link"
    link.symlink_to(weights)
    assert content_digest(link) == first


def test_one_note_is_kept_of_a_path(weights: Path, settled: None, home: Path) -> None:
    content_digest(weights)
    rewritten(weights, "replaced")
    content_digest(weights)
    content_digest(weights.parent / "config.json")  # small: it is read, whatever was known
    (note,) = kept_in().iterdir()
    assert note.is_relative_to(home)
    assert str(weights) in note.read_text()


def test_a_file_that_was_just_written_is_not_kept(weights: Path) -> None:
    assert content_digest(weights) == sha256(weights)
    assert not kept_in().exists()


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "[]",
        "{}",
        json.dumps({"stamp": None, "sha256": "00"}),
        "another stamp",
        "short digest",
    ],
)
def test_a_spoilt_note_is_written_anew(
    weights: Path, settled: None, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    content_digest(weights)
    (note,) = kept_in().iterdir()
    good = json.loads(note.read_text())
    if spoilt == "another stamp":
        spoilt = json.dumps({"stamp": [*good["stamp"][:-1], 0], "sha256": "00" * 32})
    elif spoilt == "short digest":
        spoilt = json.dumps({**good, "sha256": "00"})
    note.write_text(spoilt)
    later(monkeypatch, reads=True)
    assert content_digest(weights) == sha256(weights)
    assert json.loads(note.read_text()) == good


def test_without_a_place_to_keep_them_files_are_read(
    weights: Path, settled: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("no folder")
    assert content_digest(weights) == sha256(weights)
    later(monkeypatch, reads=True)
    assert content_digest(weights) == sha256(weights)
