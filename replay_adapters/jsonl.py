"""Files of JSON lines that a killed process leaves readable."""

import json
import os
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Appending:
    """A file of JSON lines that is appended to; each line is on disk when :meth:`add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = False

    def add(self, line: Line) -> None:
        """Append one line, behind the last whole one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._whole and self.path.is_file():
            content = self.path.read_bytes()
            os.truncate(self.path, content.rfind(b"\n") + 1)  # what a kill left of a line
        self._whole = True
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[Line]:
    """Return a file's lines; none where there is no file.

    The last line may have been cut by a kill: it is left out.

    Raises:
        ValueError: another line is not JSON.
    """
    if not path.is_file():
        return []
    # Only b"\n" ends a line: JSON leaves U+2028 and U+0085 in its texts as they are.
    whole = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in whole]
