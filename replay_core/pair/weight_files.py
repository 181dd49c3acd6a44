"""The files that hold a checkpoint's weights, and what is wrong with one that cannot be read."""

import json
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

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
        shards = sorted(set(json.loads(first.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its index {first.name} does not say which weights are in which file"
    return next((found for name in shards if (found := _damage(folder / name))), None)


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
