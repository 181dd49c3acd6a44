"""The files that hold a checkpoint's weights, and what is wrong with one that cannot be read."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from replay_core.errors import UsageError, shown

# What readers of weights raise on files that are cut, damaged, or something else.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# In transformers' order: the first that is there is read.
_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
_POINTER = b"version https://git-lfs"


def holds_weights(folder: Path) -> bool:
    """Return whether a folder holds a whole checkpoint's weights, in whatever format."""
    return any((folder / name).is_file() for name in _WEIGHTS)


def check_weights(folder: Path, *, adapter: bool = False) -> None:
    """Check the weights of a checkpoint, or of a LoRA adapter, by their headers.

    Nothing is said of a hub id, whose files may not be there yet.

    Raises:
        UsageError: the folder has no weights, or a file of them is damaged.
    """
    if not (folder / (ADAPTER_CONFIG_NAME if adapter else CONFIG_NAME)).is_file():
        return
    names = _ADAPTER_WEIGHTS if adapter else _WEIGHTS
    if not any((folder / name).is_file() for name in names):
        raise UsageError(
            f"{shown(folder)} cannot be loaded: it holds no weights (allowed: {', '.join(names)})"
        )
    damage = damage_of(folder, adapter=adapter)
    if damage is not None:
        raise UsageError(f"{shown(folder)} cannot be loaded: {damage}")


def damage_of(folder: Path, *, adapter: bool = False) -> str | None:
    """Return what is wrong with the first weights file that cannot be read; None if all can.

    Looks at the files that a loader would take: those of a checkpoint, or of a LoRA adapter. Reads
    headers only.
    """
    names = _ADAPTER_WEIGHTS if adapter else _WEIGHTS
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        return None
    if first.suffix != ".json":
        return _damage(first)
    if (found := _damage_of_text(first)) is not None:
        return found
    try:
        where = dict(json.loads(first.read_bytes())["weight_map"])
        shards = sorted(set(where.values()))
        if any(Path(name).name != name for name in shards):
            raise ValueError("a file elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its index {first.name} does not say which weights are in which file"
    found = next((found for name in shards if (found := _damage(folder / name))), None)
    return found or _misplaced(folder, where)


def _misplaced(folder: Path, where: Mapping[str, str]) -> str | None:
    """Return which weight is not in the file that an index names for it; None where all are."""
    held: dict[str, set[str]] = {}
    for shard in sorted(set(where.values())):
        if not shard.endswith(".safetensors"):
            return None
        with safe_open(folder / shard, framework="pt") as file:
            held[shard] = set(file.keys())
    lost = next((name for name, shard in where.items() if name not in held[shard]), None)
    if lost is None:
        return None
    return f"its file {where[lost]} does not hold {shown(lost)}, which its index says it does"


def _damage(path: Path) -> str | None:
    if not path.is_file():
        return f"its file {path.name} is missing"
    if (found := _damage_of_text(path)) is not None:
        return found
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                file.keys()
        else:
            # Tensors are left where they are: only the table of contents is read.
            torch.load(path, "meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE:
        return f"its file {path.name} is cut or damaged, or holds no weights ({_size(path)})"
    return None


def _damage_of_text(path: Path) -> str | None:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return (
                f"its file {path.name} is a git-lfs pointer ({_size(path)}), not the file itself, "
                "which `git lfs pull` fetches"
            )
    return None


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"
