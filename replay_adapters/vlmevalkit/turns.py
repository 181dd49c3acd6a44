"""The turns of a conversation that has no answer yet, so that a killed run repeats none of them."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from replay_core import ReplayRecord
from replay_core.jsonl import Line, Sealed, read_sealed
from replay_core.record import lasting


class TurnLine(BaseModel):
    """What is kept of one turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int | float | str
    repeat: int
    turn: int
    text: str
    record: ReplayRecord


class Turns:
    """One line per turn: ``{"index": …, "repeat": …, "turn": …, "text": …, "record": {…}}``.

    Every process appends to ``DATASET.RANKofWORLD.turns``; what others have left is read once. The
    folder's settings are checked before.
    """

    def __init__(self, folder: Path, dataset: str, rank: int, world: int) -> None:
        self._folder, self._dataset = folder, dataset
        self._file = Sealed(folder / f"{dataset}.{rank}of{world}.turns", TurnLine)

    def find(self, index: Any, repeat: int, turn: int) -> tuple[str, ReplayRecord] | None:
        """Return a turn's text and record; None where it was not finished, or not for good."""
        line = self._known.get((index, repeat, turn))
        if line is None:
            return None
        return line["text"], ReplayRecord.model_validate(line["record"])

    def add(self, index: Any, repeat: int, text: str, record: ReplayRecord) -> None:
        """Keep a finished turn; it is on disk when this returns."""
        told: Line = {"index": index, "repeat": repeat, "turn": record.turn, "text": text}
        self._file.add({**told, "record": record.model_dump(mode="json")})

    def drop(self) -> None:
        """Let go of all turns: the conversations have their answers."""
        for path in self._paths():
            path.unlink()

    @cached_property
    def _known(self) -> dict[tuple[Any, int, int], Line]:
        lines = [line for path in self._paths() for _, line in read_sealed(path, TurnLine)]
        return {
            (line["index"], line["repeat"], line["turn"]): line
            for line in lines
            if lasting(line["record"])
        }

    def _paths(self) -> Iterator[Path]:
        for path in sorted(self._folder.glob("*.turns")):
            if path.name.removesuffix(".turns").rpartition(".")[0] == self._dataset:
                yield path
