"""What every study writes: rows that survive a kill, a CSV table, and a JSON that says how."""

import csv
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from replay_core.digest import settings_digest
from replay_core.errors import UsageError
from replay_core.jsonl import Appending, numbered_lines
from replay_core.record import lasting, library_versions
from replay_core.studies.result import Result

Row = dict[str, Any]
R = TypeVar("R", bound=Result)


class Rows:
    """Rows of one study with one set of settings, appended to a file as they are measured.

    The file's name holds the settings' digest, so that a run with other settings never reads these
    rows, and the same run goes on where it was killed. ``key`` names the fields that identify a
    row. A last line that a kill cut short is dropped, and a row whose outcome (its own, or that of
    its ``record``) depended on the moment is measured again by the next run; see
    :func:`~replay_core.record.lasting`.

    Raises:
        UsageError: the file holds something else.
    """

    def __init__(
        self, folder: Path, study: str, settings: Mapping[str, Any], key: Sequence[str]
    ) -> None:
        digest = settings_digest({**settings, "versions": library_versions()})
        self.path = folder / f"{study}.{digest}.jsonl"
        self._file, self._key = Appending(self.path, _plain), tuple(key)
        self._rows: dict[tuple[Hashable, ...], Row] = {}
        for number, line in numbered_lines(self.path):
            try:
                row = json.loads(line)
                known = self._of(row)
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{self.path} line {number} is not a row of this study ({error}); remove the "
                    "file to measure again"
                ) from error
            if lasting(row.get("record", row)):
                self._rows[known] = row

    def _of(self, row: Mapping[str, Any]) -> tuple[Hashable, ...]:
        return tuple(row[name] for name in self._key)

    def __contains__(self, key: tuple[Hashable, ...]) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows to the file, at once on disk; a row that is there is left as it is."""
        fresh = {self._of(row): row for row in rows if self._of(row) not in self._rows}
        self._file.add(*fresh.values())
        self._rows.update(fresh)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, with the fields of all of them in order of appearance."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{k: _cell(v) for k, v in row.items()} for row in rows])


def text_table(columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Return rows as an aligned table; ``columns`` is field → format."""
    lines = [list(columns)] + [
        ["-" if row.get(name) is None else f"{row[name]:{form}}" for name, form in columns.items()]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [line[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write content as JSON; numbers that are not finite become null."""
    text = json.dumps(_finite(content), indent=1, default=_plain)
    path.write_text(text + "\n", encoding="utf-8")


def write_study(
    folder: Path,
    study: str,
    *,
    settings: Mapping[str, Any],
    table: Sequence[Row],
    findings: Mapping[str, Any],
    seed: int,
) -> None:
    """Write ``study.csv`` and ``study.json`` (settings, versions, seed, hash, findings)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / f"{study}.csv", table)
    content = {
        "study": study,
        "settings": settings,
        "configuration_hash": settings_digest(settings),
        "versions": library_versions(),
        "seed": seed,
        "findings": findings,
        "table": list(table),
    }
    write_json(folder / f"{study}.json", content)


def read_result(folder: Path, study: str, kind: type[R]) -> R:
    """Return the result that a study wrote into ``folder``, as its ``run`` returned it.

    Raises:
        OSError: the study has written nothing there.
        pydantic.ValidationError: its file holds another kind of result.
    """
    return kind.read(json.loads((folder / f"{study}.json").read_text("utf-8"))["findings"])


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
