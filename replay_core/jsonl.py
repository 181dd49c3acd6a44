"""Files of JSON lines that a killed process leaves readable.

Lines end with a line feed and nothing else: U+2028, U+0085 and the like, at which
``str.splitlines`` breaks too, stand in many an answer.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from replay_core.errors import UsageError

Line = dict[str, Any]


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
        if not self._whole and self.path.is_file():
            _end_last_line(self.path)
        self._whole = False  # until these are: the disk may be full
        texts = [json.dumps(line, ensure_ascii=False, default=self._plain) for line in lines]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(text + "\n" for text in texts)
            file.flush()
            os.fsync(file.fileno())
        self._whole = True


def read_lines(path: Path) -> list[Line]:
    """Return a file's lines, as :func:`numbered_lines` finds them.

    Raises:
        ValueError: a line is not JSON.
    """
    return [json.loads(line) for _, line in numbered_lines(path)]


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the text of a file's lines; nothing where there is no file.

    The last line may have been cut by a kill: what has no line feed behind it is left out, unless
    it is whole all the same, as in a file that was written by hand.
    """
    if not path.is_file():
        return
    *whole, last = path.read_bytes().split(b"\n")
    yield from ((number, line) for number, line in enumerate(whole, 1) if line.strip())
    if _is_json(last):
        yield len(whole) + 1, last


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
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


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
