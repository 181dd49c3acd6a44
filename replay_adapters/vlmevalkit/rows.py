"""Which rows of a set were asked for, and which of them have an answer."""

import functools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replay_adapters.vlmevalkit.journal import Journal, plain, write_json
from replay_core import Outcome
from replay_core.jsonl import Line
from replay_core.outcome import FAULTS

_MARK = "_activation_replay"
# Upstream takes an image cell of up to so many characters for the index of another row.
_REFERENCE = 64


@dataclass(frozen=True)
class Rows:
    """How many rows a set was given with, and the indices of those without an answer.

    ``unreadable`` are answered, by an empty answer: their picture or clip cannot be read.
    ``faults`` are answered too, without replay or by an empty answer: outcome → indices.
    """

    asked: int
    unanswered: list[Any] = field(default_factory=list)
    unreadable: list[Any] = field(default_factory=list)
    faults: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """How many rows have an answer."""
        return self.asked - len(self.unanswered)

    def told(self) -> str:
        """Return how many of how many, and the first indices of the others."""
        text = f"{self.answered} of {self.asked} rows were answered"
        if self.unanswered:
            text += f", not {_listed(self.unanswered)}"
        unread = {Outcome.UNREADABLE_INPUT.value: self.unreadable} if self.unreadable else {}
        for outcome, indices in {**unread, **self.faults}.items():
            text += f"; {len(indices)} {outcome}: {_listed(indices)}"
        return text

    @property
    def faulty(self) -> int:
        """How many rows ended in a fault."""
        return len({index for indices in self.faults.values() for index in indices})

    def write(self, journal: Journal) -> None:
        """Write them down beside a model's records of the set."""
        write_json(_path(journal.folder, journal.dataset), asdict(self))


def read_rows(folder: Path, dataset: str, since: float) -> Rows | None:
    """Return the rows of a set that a run has written down since a time; None where none has."""
    path = _path(folder / "replay", dataset)
    # File systems keep times to the second only.
    if not path.is_file() or path.stat().st_mtime < since - 1:
        return None
    return Rows(**json.loads(path.read_text(encoding="utf-8")))


def rows_of(dataset: Any, limit: int | None, lines: Iterable[Line] | None) -> Rows:
    """Return the rows of a set by what they were given: the set as read, before rows are dropped.

    ``lines`` are the answers of our models; None stands for a model of the harness, which answers
    every row that it keeps or none. An index that stands twice is answered once.
    """
    kept = [plain(index) for index in dataset.data["index"]]
    missing = [*_dropped(dataset, kept if limit else None), *_repeated(kept)]
    if lines is None:
        return Rows(len(set(kept)) + len(missing), missing)
    answered = {line["index"]: line for line in lines}
    unanswered = [index for index in dict.fromkeys(kept) if index not in answered]
    unread = [index for index in dict.fromkeys(kept) if unreadable(answered.get(index))]
    faults = {
        outcome.value: [i for i in dict.fromkeys(kept) if _ended_as(outcome, answered.get(i))]
        for outcome in FAULTS
    }
    asked, missing = len(set(kept)) + len(missing), [*missing, *unanswered]
    return Rows(asked, missing, unread, {name: found for name, found in faults.items() if found})


def unreadable(line: Line | None) -> bool:
    """Whether a sample's line is there and says that its picture or clip could not be read."""
    return _ended_as(Outcome.UNREADABLE_INPUT, line)


def _ended_as(outcome: Outcome, line: Line | None) -> bool:
    records = [] if line is None else line["replay"]
    return any(record["outcome"] == outcome.value for record in records)


def remember_rows() -> None:
    """Keep the indices of the rows that a set was given with, and every cell for an image.

    Upstream drops rows with an empty image cell without a word. It takes a cell of up to 64
    characters for the index of the row that has the image, and a set in which it is none, like a
    tiny or broken image, cannot be built at all: such a cell is made longer by blanks, which base64
    skips.
    """
    from vlmeval.dataset import DATASET_CLASSES

    def remembering(original: Any) -> Any:
        @functools.wraps(original)
        def load_data(self: Any, *given: Any, **more: Any) -> Any:
            data = original(self, *given, **more)
            if "index" in data:
                self.rows_given = [plain(index) for index in data["index"]]
            if "image" in data and "index" in data:
                data["image"] = _no_false_references(data["index"], data["image"])
            return data

        setattr(load_data, _MARK, True)
        return load_data

    for kind in {base for leaf in DATASET_CLASSES for base in leaf.__mro__}:
        own = vars(kind).get("load_data")
        if callable(own) and not hasattr(own, _MARK):
            kind.load_data = remembering(own)


def _no_false_references(indices: Iterable[Any], cells: Iterable[Any]) -> list[Any]:
    """Return image cells in which every short one is the index of a row with an image."""
    cells = list(cells)
    given = {str(index) for index, cell in zip(indices, cells, strict=True) if cell == cell}
    return [
        cell.ljust(_REFERENCE + 1)
        if isinstance(cell, str) and len(cell) <= _REFERENCE and cell not in given
        else cell
        for cell in cells
    ]


def _dropped(dataset: Any, limited: list[Any] | None) -> list[Any]:
    """Return the indices that a set was given with and has not kept; a joined set's of its parts.

    With a limit, ``limited`` are the rows within it, and those behind the last do not count.
    """
    parts = getattr(dataset, "dataset_map", None)
    if parts and limited is None:
        return [f"{name}:{index}" for name, part in parts.items() for index in _dropped(part, None)]
    given = [str(index) for index in getattr(dataset, "rows_given", ())]
    kept = {str(plain(index)) for index in dataset.data["index"]}
    if not kept <= set(given):
        return []  # the class counts its rows anew
    if limited:
        given = given[: given.index(str(limited[-1]))]
    return [index for index in dict.fromkeys(given) if index not in kept]


def _repeated(kept: Iterable[Any]) -> list[Any]:
    counts = Counter(kept)
    return [index for index, count in counts.items() for _ in range(count - 1)]


def _listed(indices: list[Any], most: int = 5) -> str:
    text = "index " + ", ".join(map(str, indices[:most]))
    return text if len(indices) <= most else f"{text} and {len(indices) - most} more"


def _path(folder: Path, dataset: str) -> Path:
    return folder / f"{dataset}.rows.json"
