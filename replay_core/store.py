"""Tensors on disk, found again by what they depend on: the base's readings, and x.

A store is shared by processes and by runs. A file stands under its final name only once it is
whole, and carries a digest of its content; one that is damaged is told of and made again. It is an
aid: what goes wrong with it costs time and never an answer.
"""

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from replay_core.digest import content_digest
from replay_core.errors import UsageError

# A part of every key, so that files of an older form are never read as this one.
_FORM = 1
_GB = 10**9
_SUFFIX = ".safetensors"
# A file that is still unfinished after this many seconds was left by a process that was killed.
_ABANDONED = 3600


@dataclass(frozen=True)
class Stored:
    """What stands under a key: tensors by name, and the text beside them."""

    tensors: dict[str, Tensor]
    note: str


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


class Store:
    """A folder of tensors that holds at most ``limit_gb``: what was used last is kept.

    ``tell`` is given a sentence for every file that is damaged, and for the first that cannot be
    written. The limit is looked after by each process whenever it has written a hundredth of it.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: str | Path,
        limit_gb: float = 50.0,
        tell: Callable[[str], object] = _warn,
    ) -> None:
        self.folder, self.limit = Path(folder).expanduser(), int(limit_gb * _GB)
        self._tell, self._unseen, self._writes = tell, self.limit, True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the store {folder} is not a folder and cannot be made one ({error.strerror})"
            ) from error

    @staticmethod
    def key(kind: str, depends_on: Mapping[str, Any]) -> str:
        """Return the key of what is of one ``kind`` and depends on these values, and no others."""
        text = json.dumps([_FORM, depends_on], sort_keys=True)
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()}"

    def find(self, key: str) -> Stored | None:
        """Return what stands under a key, on the CPU; None where nothing does, or it is damaged."""
        path = self.folder / (key + _SUFFIX)
        try:
            # At once: a reader that opens it twice may meet two files, or none the second time.
            content = path.read_bytes()
            found, notes = load(content), _notes(content)
            note = notes.get("note", "")
            if notes.get("digest") != _digest(found, note):
                raise ValueError("its content is not what was written")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            self._tell(f"{path} cannot be used ({error}); what it held is computed again")
            return None
        with contextlib.suppress(OSError):  # a store of others' may be read only
            os.utime(path)
        return Stored(found, note)

    def keep(self, key: str, tensors: Mapping[str, Tensor], note: str = "") -> None:
        """Put tensors under a key, in the place of what may stand there."""
        if not self._writes:
            return
        path = self.folder / (key + _SUFFIX)
        unfinished = path.with_name(f".{key}.{uuid4().hex}.part")
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            try:
                notes = {"note": note, "digest": _digest(plain, note)}
                save_file(plain, unfinished, metadata=notes)
                self._unseen += unfinished.stat().st_size
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
            if self._unseen > self.limit // 100:
                self._shrink()
        except (OSError, SafetensorError) as error:
            self._writes = False
            self._tell(f"{path} cannot be written ({error}); nothing more is stored in this run")

    def _shrink(self) -> None:
        """Remove the files that were used longest ago, until the rest is within the limit."""
        files, now = [], time.time()
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                stat = path.stat()
                if path.suffix == _SUFFIX:
                    files.append((stat.st_mtime_ns, path, stat.st_size))
                elif path.suffix == ".part" and now - stat.st_mtime > _ABANDONED:
                    path.unlink()
        total = sum(size for *_, size in files)
        for _, path, size in sorted(files):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._unseen = 0


def _notes(content: bytes) -> dict[str, str]:
    """Return the texts beside the tensors of a safetensors file, which its loader leaves out."""
    length = int.from_bytes(content[:8], "little")
    notes: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return notes


def _digest(tensors: Mapping[str, Tensor], note: str) -> str:
    return hashlib.sha256(f"{content_digest(tensors, ())} {note}".encode()).hexdigest()
