"""Whether files can be written where a run wants them, and names that become files."""

import os
from pathlib import Path

from replay_adapters.settings.resources import expanded, is_file, is_folder
from replay_core import UsageError
from replay_core.errors import shown

# What file systems allow; and what of it a model and a set have, whose names become one.
_LONGEST_PART, _LONGEST_NAME = 255, 100


def check_folder(option: str, path: str | Path) -> None:
    """Raise UsageError unless files can be written into a folder, which need not be there yet."""
    place = expanded(path)
    if is_file(place):
        raise UsageError(
            f"{option}={shown(path)} is a file (allowed: a folder, there or to be made)"
        )
    _check_writable(option, path, place)


def check_file(option: str, path: str | Path) -> None:
    """Raise UsageError unless a file can be written or appended to, which need not be there yet."""
    place = expanded(path)
    if is_folder(place):
        raise UsageError(f"{option}={shown(path)} is a folder (allowed: a file)")
    if is_file(place) and not os.access(place, os.R_OK | os.W_OK):
        raise UsageError(f"{option}={shown(path)} cannot be read and written (permissions)")
    _check_writable(option, path, place.parent)


def _check_writable(option: str, path: str | Path, folder: Path) -> None:
    """Look at the nearest folder that is there, and at the parts of the name."""
    _check_parts(option, path)
    folder = folder.absolute()
    nearest = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), folder)
    if not is_folder(nearest):
        raise UsageError(f"{option}={shown(path)} cannot be made: {shown(nearest)} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{option}={shown(path)} cannot be written: {shown(nearest)} is read-only")


def _check_parts(option: str, path: str | Path) -> None:
    try:
        parts = [os.fsencode(part) for part in expanded(path).parts]
    except UnicodeEncodeError:
        parts = [b"\0"]
    if any(len(part) > _LONGEST_PART or b"\0" in part for part in parts):
        raise UsageError(
            f"{option}={shown(path)} cannot be made (allowed: at most {_LONGEST_PART} bytes "
            "between slashes, of characters that a file's name can hold)"
        )


def check_name(what: str, name: str) -> None:
    """Raise UsageError where a name, from a file or a command line, would lead out of a folder.

    It becomes the name of a folder or file of results; ``what`` says where it stands.
    """
    fits = name.isprintable() and len(name.encode()) <= _LONGEST_NAME
    if not fits or {"/", "\\"} & set(name) or name.strip() in ("", ".", ".."):
        raise UsageError(
            f"{what} {shown(name)}, which cannot be that of a folder (allowed: at most "
            f"{_LONGEST_NAME} bytes of printable characters, without / and \\)"
        )
