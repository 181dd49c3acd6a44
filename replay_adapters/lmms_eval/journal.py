"""Answers kept batch by batch, so that a run that was killed is finished and not repeated.

lmms-eval writes nothing before all requests are answered. A run that is started again goes through
the same batches; those in the journal are answered from it, all others as ever.
"""

import glob
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from replay_core import ReplayRecord, UsageError
from replay_core.digest import content_digest
from replay_core.jsonl import Line, Sealed, read_sealed
from replay_core.model.vision import Inputs
from replay_core.record import lasting


class BatchLine(BaseModel):
    """What a journal keeps of one batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits")
    answers: list[list[Annotated[int, Field(ge=0)]]]
    """Each sample's new token ids."""
    records: list[ReplayRecord]


def known_batches(path: Path) -> dict[str, Line]:
    """Return what all processes of earlier runs have kept, key → line.

    The first process writes to ``path``, the others beside it, to ``path.1``, ``path.2`` …

    Raises:
        UsageError: a line is not as it was written, or two lines have different answers to the same
            batch; told by file and number.
    """
    known: dict[str, Line] = {}
    beside = path.parent.glob(f"{glob.escape(path.name)}.*") if path.parent.is_dir() else ()
    ranks = (other for other in beside if other.name[len(path.name) + 1 :].isdecimal())
    for file in (path, *sorted(ranks)):
        if file.is_dir():
            raise UsageError(f"replay_journal: {file} is a folder (allowed: a file)")
        for number, line in read_sealed(file, BatchLine):
            before = known.get(line["key"])
            if before is not None and _lasts(before) and before["answers"] != line["answers"]:
                raise UsageError(
                    f"{file}, line {number} has other answers than an earlier line to the same "
                    "batch; delete one of the two, or give another file"
                )
            known[line["key"]] = line
    return known


def _lasts(line: Line) -> bool:
    return all(map(lasting, line["records"]))


class BatchJournal:
    """One process's batches, and those that all processes of earlier runs have kept.

    A batch is known by the content of its prompts and pixels, its seeds, its generation settings
    and the run's ``fingerprint`` (settings, weights and versions), so that one file may serve
    several runs and never gives one of them another's answers. A batch with an outcome that
    depended on the moment, as where memory ran out, is answered again, all of it: its rows were
    answered together.
    """

    def __init__(self, path: Path, fingerprint: str, rank: int = 0) -> None:
        own = path if rank == 0 else path.with_name(f"{path.name}.{rank}")
        self._fingerprint = fingerprint
        self._file = Sealed(own, BatchLine)
        self._known = known_batches(path)
        self._written: set[str] = set()

    def key(self, inputs: Inputs, generation: Mapping[str, Any], seeds: Sequence[int]) -> str:
        """Return what a batch is known by."""
        parts = (self._fingerprint, content_digest(inputs, seeds), sorted(generation.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def find(self, key: str, prompt: Tensor) -> tuple[Tensor, list[ReplayRecord]] | None:
        """Return what ``generate`` returned for ``prompt`` (batch, tokens), and the records."""
        line = self._known.get(key)
        if line is None or not _lasts(line):
            return None
        answers = torch.tensor(line["answers"], dtype=prompt.dtype, device=prompt.device)
        output = torch.cat([prompt, answers.reshape(len(prompt), -1)], dim=1)
        return output, [ReplayRecord.model_validate(record) for record in line["records"]]

    def keep(self, key: str, answers: Tensor, records: Sequence[ReplayRecord]) -> None:
        """Write one batch's new tokens (batch, t) and records; they are on disk at the return.

        Nothing is written where an outcome depended on the moment, nor a second time: lmms-eval has
        processes with fewer documents answer their last one again.
        """
        told = [record.model_dump(mode="json") for record in records]
        if all(map(lasting, told)) and key not in self._written:
            self._file.add({"key": key, "answers": answers.tolist(), "records": told})
            self._written.add(key)
