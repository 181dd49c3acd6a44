"""Files of JSON lines that a killed process leaves readable.

Lines end with a line feed and nothing else: U+2028, U+0085 and the like, at which
``str.splitlines`` breaks too, stand in many an answer.
"""

import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from replay_core.errors import UsageError, sentence

Line = dict[str, Any]

_log = logging.getLogger(__name__)
# At the end of a sealed line: the CRC-32 of all before it.
_SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*$')


class Appending:
    """A file of JSON lines that is appended to; lines are on disk when :meth:`add` returns.

    ``plain`` turns a value that JSON does not know into one that it does.
    """

    def __init__(self, path: Path, plain: Callable[[Any], Any] | None = None) -> None:
        self.path, self._plain = path, plain
        self._whole = False

    def add(self, *lines: Line) -> None:
        """Append lines behind the last whole one, all at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        existed = self.path.is_file()
        if not self._whole and existed:
            _end_last_line(self.path)
        self._whole = False  # until these are: the disk may be full
        content = "".join(self._text(line) + "\n" for line in lines).encode()
        with self.path.open("ab", buffering=0) as file:
            while content:  # at once, but on a full disk: another process may append, too
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        self._whole = True
        if not existed:
            sync_folder(self.path.parent)

    def _text(self, line: Line) -> str:
        return json.dumps(line, ensure_ascii=False, default=self._plain)


class Sealed(Appending):
    """A file of JSON lines that each end with a checksum, so that no changed digit passes.

    It tells accidents (a failing disk, a careless editor), not forgery. ``form`` says what a line
    holds.
    """

    def __init__(self, path: Path, form: type[BaseModel]) -> None:
        super().__init__(path)
        self._form = form

    def _text(self, line: Line) -> str:
        text = super()._text(line)
        return f'{text[:-1]}, "crc32": "{zlib.crc32(text[:-1].encode()):08x}"}}'


def read_sealed(path: Path, form: type[BaseModel]) -> Iterator[tuple[int, Line]]:
    """Yield the number, from 1, and the content of a sealed file's lines.

    What a kill left of the last line is left out, which the log notes.

    Raises:
        UsageError: a line is not as it was written, or not of the form; told with its number.
    """
    for number, text in numbered_lines(path, note=True):
        seal = _SEAL.search(text)
        if seal is None or zlib.crc32(text[: seal.start()]) != int(seal[1], 16):
            told = "it has no checksum" if seal is None else "its checksum does not fit"
            raise UsageError(
                f"{path}, line {number} is not as it was written ({told}); delete the line, and "
                "what it held is answered again, or give another file"
            )
        line = json.loads(text)
        del line["crc32"]
        try:
            form.model_validate(line)
        except ValidationError as error:
            raise UsageError(f"{path}, line {number}: {sentence(error, form)}") from error
        yield number, line


def read_lines(path: Path) -> list[Line]:
    """Return a file's lines, as :func:`numbered_lines` finds them.

    Raises:
        ValueError: a line is not JSON.
    """
    return [json.loads(line) for _, line in numbered_lines(path)]


def numbered_lines(path: Path, *, note: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the text of a file's lines; nothing where there is no file.

    The last line may have been cut by a kill: what has no line feed behind it is left out, unless
    it is whole all the same, as in a file that was written by hand. ``note``: the log says so.
    """
    if not path.is_file():
        return
    *whole, last = path.read_bytes().split(b"\n")
    yield from ((number, line) for number, line in enumerate(whole, 1) if line.strip())
    if _is_json(last):
        yield len(whole) + 1, last
    elif last.strip() and note:
        _log.warning("%s: line %d was cut by a kill and is left out", path, len(whole) + 1)


def finished_lines(path: Path) -> list[Line]:
    """Return the lines of a file that nobody appends to any more.

    Raises:
        UsageError: a line is cut or is not JSON, as after a run on a full disk.
    """
    content = path.read_bytes()
    try:
        return [json.loads(line) for line in content.split(b"\n") if line.strip()]
    except ValueError as error:
        raise UsageError(f"{path} is not a whole file of JSON lines ({error})") from error


def replace_text(path: Path, text: str) -> None:
    """Write a file at once, in the place of what is there, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring to disk which files a folder holds, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _end_last_line(path: Path) -> None:
    """Cut off what a kill left of a line, or end it where only its line feed is missing."""
    content = path.read_bytes()
    start = content.rfind(b"\n") + 1
    if _is_json(content[start:]):
        with path.open("ab") as file:
            file.write(b"\n")
    else:
        os.truncate(path, start)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
