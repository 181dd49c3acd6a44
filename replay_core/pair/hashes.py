"""Hashes of files, which are read once: 30 GB take about 20 seconds at every start otherwise."""

import contextlib
import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from huggingface_hub import constants

# A file that was written this recently may be written again with every time stamp unchanged.
_UNSETTLED_NS = 2_000_000_000
# Smaller files are read faster than looked up.
_WORTH_KEEPING = 2**20


def content_digest(path: Path) -> bytes:
    """Return the SHA-256 of a file, from what is known of it where it was not written since.

    The hashes of large files are kept beside the hub's own cache (``HF_HOME``), by path, size,
    inode and the times of the last change: the inode's too, which no program can set back.
    """
    stat = path.stat()
    if time.time_ns() - stat.st_ctime_ns < _UNSETTLED_NS:
        return _hashed(path)
    stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return _known(path.resolve(), *stamp)


def kept_in() -> Path:
    """Return the folder of the hashes that are kept."""
    return Path(constants.HF_HOME) / "activation-replay" / "hashes"


@lru_cache(maxsize=4096)
def _known(path: Path, inode: int, size: int, mtime_ns: int, ctime_ns: int) -> bytes:
    """Return a file's digest; the numbers change when it is written."""
    if size < _WORTH_KEEPING:
        return _hashed(path)
    stamp = [str(path), inode, size, mtime_ns, ctime_ns]
    note = kept_in() / hashlib.sha256(os.fsencode(path)).hexdigest()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or no note
        kept = json.loads(note.read_text("utf-8"))
        if kept["stamp"] == stamp and len(digest := bytes.fromhex(kept["sha256"])) == 32:
            return digest
    digest = _hashed(path)
    unfinished = note.with_suffix(f".{uuid4().hex}")
    with contextlib.suppress(OSError):  # no place to keep it: it is computed again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        content = {"stamp": stamp, "sha256": digest.hex()}
        unfinished.write_text(json.dumps(content), "utf-8")
        os.replace(unfinished, note)
    return digest


def _hashed(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
