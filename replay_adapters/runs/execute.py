"""Run or resume the cells of a table, one command line of the harness after the other."""

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from replay_adapters.runs.needs import lacks
from replay_adapters.runs.plan import Cell
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.run import RunLog
from replay_core import UsageError
from replay_core.jsonl import replace_text

State = Literal["done", "begun", "to run"]
_DONE = "done.json"
_LOCK = "lock"


@dataclass(frozen=True)
class Failure:
    """A cell that was not finished, and why."""

    cell: Cell
    why: str


def state(cell: Cell) -> State:
    """Return how far a cell is, by its files; one whose files were cut since is only begun."""
    if log_of(cell) is not None:
        return "done"
    return "begun" if cell.folder.is_dir() else "to run"


def log_of(cell: Cell) -> RunLog | None:
    """Return the finished run of a cell; None where there is none, or it is no longer whole."""
    return None if not _marked(cell) or damage(cell) else _read(cell)


def damage(cell: Cell) -> str | None:
    """Return why the files of a cell that was done cannot be read; None for any other cell."""
    if not _marked(cell):
        return None
    try:
        _read(cell)
    except UsageError as error:
        return str(error)
    return None


def _marked(cell: Cell) -> bool:
    return (cell.folder / _DONE).is_file()


def _read(cell: Cell) -> RunLog:
    files = sorted(path for path in cell.folder.rglob("*") if path.is_file())
    stamps = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    return _read_once(cell.folder, cell.task, tuple(stamps))


@cache
def _read_once(folder: Path, task: str, stamps: tuple[tuple[Path, int, int], ...]) -> RunLog:
    """Return the run of a folder whose files are as they were; a table asks for each often."""
    return read_runs(folder, [task])[0]


def run_cells(cells: Sequence[Cell], tell: Callable[[str], None]) -> list[Failure]:
    """Run each cell that is not done, and return those that were not finished.

    A cell that fails does not stop the others. ``tell`` is given a line for each, its command line
    among them, as it can be typed.
    """
    failures = []
    for number, cell in enumerate(cells, start=1):
        at = f"[{number}/{len(cells)}] {cell.name}"
        if state(cell) == "done":
            tell(f"{at}: done before")
            continue
        if why := damage(cell):
            tell(f"{at}: was done, but is run again: {why}")
        if why := lacks(cell):
            tell(f"{at}: not run: {why}")
            failures.append(Failure(cell, why))
            continue
        tell(f"{at}\n$ {cell.shown}")
        if why := _run(cell):
            tell(f"{at}: failed: {why}")
            failures.append(Failure(cell, why))
        else:
            tell(f"{at}: done")
    return failures


def _run(cell: Cell) -> str | None:
    """Run one cell; return why it is not finished, if it is not."""
    try:
        with _alone(cell.folder) as lock:
            return _answer(cell, lock)
    except UsageError as error:
        return str(error)


def _answer(cell: Cell, lock: int) -> str | None:
    (cell.folder / _DONE).unlink(missing_ok=True)
    if cell.asking.harness == "vlmevalkit":
        replace_text(cell.folder / "run.json", json.dumps(cell.run_file(), indent=2) + "\n")
    log = cell.folder / "log.txt"
    with log.open("ab") as written:
        ended = subprocess.run(
            cell.command,
            env={**os.environ, **cell.environment},
            stdout=written,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            check=False,
        )
    if ended.returncode != 0:
        return f"exit code {ended.returncode}: {_last_line(log)} (see {log})"
    try:
        read_runs(cell.folder, [cell.task])
    except UsageError as error:
        return f"{error} (see {log})"
    replace_text(cell.folder / _DONE, json.dumps({"command": cell.shown}) + "\n")
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold a folder's lock, whose descriptor the harness inherits.

    So the lock outlives this process where that alone is killed and its harness goes on: two would
    answer the same items, and write into the same journal.

    Raises:
        UsageError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process is at it, perhaps a harness whose command was killed; wait for "
                f"its end, or end what holds {folder / _LOCK} (fuser names it)"
            ) from error
        yield file.fileno()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it printed nothing"
