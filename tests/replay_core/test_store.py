"""Tensors on disk: found again, found out when damaged, and never more than the limit."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from replay_core import UsageError
from replay_core.store import Store

MANY = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([1.5, float("nan")]).bfloat16()}


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[str]) -> Store:
    return Store(tmp_path / "deep" / "store", tell=told.append)


def file_of(store: Store) -> Path:
    (path,) = store.folder.iterdir()
    return path


def test_tensors_come_back_bit_by_bit_with_their_note(store: Store, told: list[str]) -> None:
    key = store.key("x", {"inputs": "one"})
    assert store.find(key) is None
    store.keep(key, MANY, note="μ")
    found = Store(store.folder).find(key)
    assert found is not None
    assert found.note == "μ"
    assert {name: (v.dtype, v.shape) for name, v in found.tensors.items()} == {
        name: (v.dtype, v.shape) for name, v in MANY.items()
    }
    for name, value in MANY.items():
        assert torch.equal(found.tensors[name].view(torch.uint8), value.view(torch.uint8))
    assert told == []


def test_a_key_is_of_all_that_it_depends_on_in_any_order() -> None:
    key = Store.key("x", {"a": 1, "b": [2]})
    assert key == Store.key("x", {"b": [2], "a": 1})
    others = [("y", {"a": 1, "b": [2]}), ("x", {"a": 1, "b": [3]}), ("x", {"a": 1})]
    assert key not in [Store.key(*other) for other in others]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda content: b"", lambda content: content.replace(b"mine", b"his!")]
)
def test_a_damaged_file_is_told_of_and_made_again(store: Store, told: list[str], damage) -> None:
    key = store.key("x", {})
    store.keep(key, MANY, note="mine")
    file_of(store).write_bytes(damage(file_of(store).read_bytes()))
    assert store.find(key) is None
    (sentence,) = told
    assert str(file_of(store)) in sentence
    assert "computed again" in sentence
    store.keep(key, MANY, note="mine")
    assert store.find(key) is not None
    assert len(told) == 1


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    whole = {"a": torch.zeros(25_000)}  # 100 kB
    store = Store(tmp_path, limit_gb=0.00035)
    keys = [store.key("x", {"n": n}) for n in range(5)]
    for number, key in enumerate(keys[:3]):
        store.keep(key, whole)
        os.utime(tmp_path / f"{key}.safetensors", (number, number))
    assert store.find(keys[0]) is not None  # used just now, so it is the youngest
    for key in keys[3:]:
        store.keep(key, whole)
    assert [store.find(key) is not None for key in keys] == [True, False, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 350_000


def test_what_killed_processes_left_is_cleared_away(store: Store) -> None:
    old, fresh = store.folder / ".a.1.part", store.folder / ".a.2.part"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    store.keep(store.key("x", {}), MANY)
    assert not old.exists()
    assert fresh.exists()


def test_a_store_that_cannot_be_written_costs_no_answer(
    store: Store, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for number in range(3):
        store.keep(store.key("x", {"n": number}), MANY)
    (sentence,) = told
    assert "No space left on device" in sentence
    assert list(store.folder.iterdir()) == []


def test_without_a_listener_a_damaged_file_is_a_warning(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep("x-1", MANY)
    file_of(store).write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert store.find("x-1") is None


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the store .*file is not a folder"):
        Store(tmp_path / "file")


def churn(folder: str, process: int) -> None:
    """Keep and find what other processes keep, find and remove at the same time."""
    torch.set_num_threads(1)
    told: list[str] = []
    store = Store(folder, limit_gb=0.0002, tell=told.append)
    for number in range(60):
        value = number % 7
        key = store.key("x", {"n": value})
        found = store.find(key)
        if found is not None:
            assert torch.equal(found.tensors["a"], torch.full((10_000,), float(value)))
        store.keep(key, {"a": torch.full((10_000,), float(value))})
    assert told == []


def test_several_processes_share_a_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=churn, args=(str(tmp_path), n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
