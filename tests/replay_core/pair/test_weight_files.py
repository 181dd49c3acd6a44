"""Which file is broken, and how."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from replay_core import UsageError
from replay_core.pair.loading import load_model
from replay_core.pair.weight_files import damage_of, holds_weights
from tests.replay_core.helpers import Loaded
from tests.support import tiny

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 9876\n"
INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00007.safetensors"


@pytest.fixture(params=["model.safetensors", SECOND, "pytorch_model.bin"])
def file(request: pytest.FixtureRequest, one: Loaded, tmp_path: Path) -> Path:
    """A file of weights, in a folder that loads."""
    folder = shutil.copytree(one.folders.policy, tmp_path / "copy")
    if request.param != "model.safetensors":
        (folder / "model.safetensors").unlink()
    if request.param == SECOND:
        tiny.load_model(one.folders.policy).save_pretrained(folder, max_shard_size="200KB")
    if request.param == "pytorch_model.bin":
        torch.save(one.policy.state_dict(), folder / request.param)
    assert damage_of(folder) is None
    load_model(folder)
    return folder / request.param


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pointer(path: Path) -> None:
    path.write_text(POINTER)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_content(path: Path) -> None:
    path.write_bytes(pickle.dumps(print, protocol=2))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "is cut or damaged, or holds no weights ("),
        (empty, "is cut or damaged, or holds no weights (0 bytes)"),
        (other_content, "is cut or damaged, or holds no weights ("),
        (pointer, "is a git-lfs pointer (129 bytes), not the file itself, which `git lfs pull`"),
    ],
)
def test_a_damaged_file_is_named(file: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(file)
    with pytest.raises(UsageError) as error:
        load_model(file.parent)
    text = str(error.value)
    assert text.startswith(f"{file.parent} cannot be loaded: its file {file.name} ")
    assert told in text
    assert "\n" not in text


@pytest.fixture
def sharded(one: Loaded, tmp_path: Path) -> Path:
    folder = shutil.copytree(one.folders.policy, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    tiny.load_model(one.folders.policy).save_pretrained(folder, max_shard_size="200KB")
    return folder


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    with pytest.raises(UsageError, match=f"cannot be loaded: its file {SECOND} is missing"):
        load_model(sharded)


def test_a_shard_that_the_index_does_not_name_leaves_weights_missing(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    kept = {name: shard for name, shard in index["weight_map"].items() if shard != SECOND}
    (sharded / INDEX).write_text(json.dumps({**index, "weight_map": kept}))
    with pytest.raises(UsageError, match=r"does not hold the weights .* weights are missing \(mod"):
        load_model(sharded)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": [1]}', POINTER])
def test_a_broken_index_is_named(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(UsageError, match=f"cannot be loaded: its (index|file) {INDEX} "):
        load_model(sharded)


def test_only_the_files_that_are_read_are_looked_at(one: Loaded, tmp_path: Path) -> None:
    folder = shutil.copytree(one.folders.policy, tmp_path / "copy")
    (folder / "pytorch_model.bin").write_text(POINTER)  # safetensors go before
    assert damage_of(folder) is None
    load_model(folder)


def test_a_failure_that_is_not_the_checkpoints_is_passed_on(
    one: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    name = "replay_core.pair.loading.AutoModelForImageTextToText.from_pretrained"
    monkeypatch.setattr(name, full)
    with pytest.raises(torch.OutOfMemoryError):
        load_model(one.folders.policy)


def test_a_folder_that_holds_weights(one: Loaded, sharded: Path, tmp_path: Path) -> None:
    assert holds_weights(one.folders.policy)
    assert holds_weights(sharded)
    assert not holds_weights(tmp_path / "copy" / "nothing")
