"""What identifies a checkpoint: the content of everything in it that can change an answer."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from replay_core.errors import UsageError
from replay_core.pair.hashes import content_digest
from replay_core.pair.lora import adapted_base

# What no loader of models, tokenizers and processors reads. Anything else counts, also under a name
# that is not known today: a digest that changes for nothing costs time, one that stays is an error.
_LEFT_OUT = re.compile(
    r"\..*"
    r"|(readme|licen[cs]e|notice)(\.\w+)?|.*\.(md|rst|pdf|png|jpe?g|gif|svg|webp|mp4|log|lock)"
    r"|(optimizer|scheduler|scaler|rng_state)[\w.-]*\.(pt|pth|bin|safetensors)"
    r"|training_args\.\w+|trainer_(state|log)\.jsonl?|\w+_results\.json|events\.out\..*"
    r"|zero_to_fp32\.py",
    re.IGNORECASE,
)
# Hidden folders (.git, .cache), other states of the same training, and its logs.
_LEFT_OUT_FOLDERS = re.compile(r"\..*|__pycache__|checkpoint-\d+|global_step\d+|runs|wandb")
# Of which every repository that a model, an adapter or a processor is loaded from has one.
_SOME_FILE = (
    "config.json",
    ADAPTER_CONFIG_NAME,
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)


def revision_of(model: PreTrainedModel) -> str:
    """Return what identifies a loaded model's checkpoint: a hash of its files, or the hub's commit.

    Empty for a model that was not loaded from anywhere. An adapter that was put onto the model is
    not part of it.
    """
    name = model.name_or_path
    if not name or Path(name).is_dir():
        return f"sha256:{folder_digest(Path(name))}" if name else ""
    # Versions of transformers before 5.24 note it.
    commit = getattr(model.config, "_commit_hash", None) or _commit_of(name)
    return f"commit:{commit}" if commit else ""


def checkpoint_revision(checkpoint: str | Path, *, onto: str | Path | None = None) -> str:
    """Return what identifies a model or a processor, without loading it.

    ``sha256:`` and 16 digits for a folder (:func:`folder_digest`), ``commit:`` and the hub's commit
    for a hub id; for a LoRA adapter that of the model it is put onto (``onto``, else the one it was
    trained on), then its own.

    Raises:
        UsageError: there is neither such a folder nor such a repository.
    """
    trained_on = adapted_base(checkpoint)
    own = _own_revision(checkpoint)
    return own if trained_on is None else f"{checkpoint_revision(onto or trained_on)}+{own}"


def folder_digest(folder: Path) -> str:
    """Return 16 hexadecimal digits of the names and contents of a checkpoint's files.

    Everything counts, in subfolders too, but what certainly changes no answer: texts and pictures
    for people, hidden files, and the state that a trainer keeps to go on from.
    """
    state = hashlib.sha256()
    for name, path in sorted(_files(folder).items()):
        state.update(os.fsencode(name) + b"\0")
        state.update(content_digest(path))
    return state.hexdigest()[:16]


def _own_revision(checkpoint: str | Path) -> str:
    if Path(checkpoint).is_dir():
        return f"sha256:{folder_digest(Path(checkpoint))}"
    commit = _commit_of(str(checkpoint))
    if commit is None:
        raise UsageError(f"{checkpoint} is neither a folder nor the id of a repository on the hub")
    return f"commit:{commit}"


def _commit_of(repository: str) -> str | None:
    """Return the commit that a hub id is loaded at; None where there is no such repository."""
    for name in _SOME_FILE:
        try:
            commit = extract_commit_hash(cached_file(repository, name), None)
        except (OSError, ValueError):  # it has no such file, or is not there at all
            continue
        if commit:
            return commit
    return None


def _files(folder: Path) -> dict[str, Path]:
    """Return path below ``folder`` → file, for all files that count."""
    files = {path.relative_to(folder).as_posix(): path for path in _walk(folder, set())}
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # no index that a loader could use; its own bytes count anyhow
        files |= {name: folder / name for name in shards if (folder / name).is_file()}
    return files


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files that count, following links, each real folder once."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in folder.iterdir():
        if path.is_dir():
            if not _LEFT_OUT_FOLDERS.fullmatch(path.name):
                yield from _walk(path, seen)
        elif path.is_file() and not _LEFT_OUT.fullmatch(path.name):
            yield path
