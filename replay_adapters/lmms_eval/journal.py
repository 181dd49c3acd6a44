"""Answers kept batch by batch, so that a run that was killed is finished and not repeated.

lmms-eval writes nothing before all requests are answered. A run that is started again goes through
the same batches; those in the journal are answered from it, all others as ever.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replay_core import ReplayRecord, UsageError
from replay_core.digest import content_digest
from replay_core.jsonl import Appending, read_lines
from replay_core.model.vision import Inputs
from replay_core.record import lasting


class BatchJournal:
    """One process's batches: ``{"key": …, "answers": [[token ids], …], "records": [{…}, …]}``.

    A batch is known by the content of its prompts and pixels, its seeds, its generation settings
    and the run's ``fingerprint`` (settings, weights and versions), so that one file may serve
    several runs and never gives one of them another's answers. A batch with an outcome that
    depended on the moment, as where memory ran out, is answered again, all of it: its rows were
    answered together.
    """

    def __init__(self, path: Path, fingerprint: str, rank: int = 0) -> None:
        own = path if rank == 0 else path.with_name(f"{path.name}.{rank}")
        self._fingerprint = fingerprint
        self._file = Appending(own)
        try:
            lines = read_lines(own)
            self._known = {line["key"]: line for line in lines}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"replay_journal={own} is not a journal of answers ({error}); name another file"
            ) from error

    def key(self, inputs: Inputs, generation: Mapping[str, Any], seeds: Sequence[int]) -> str:
        """Return what a batch is known by."""
        parts = (self._fingerprint, content_digest(inputs, seeds), sorted(generation.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def find(self, key: str, prompt: Tensor) -> tuple[Tensor, list[ReplayRecord]] | None:
        """Return what ``generate`` returned for ``prompt`` (batch, tokens), and the records."""
        line = self._known.get(key)
        if line is None or not all(map(lasting, line["records"])):
            return None
        answers = torch.tensor(line["answers"], dtype=prompt.dtype, device=prompt.device)
        output = torch.cat([prompt, answers.reshape(len(prompt), -1)], dim=1)
        return output, [ReplayRecord.model_validate(record) for record in line["records"]]

    def keep(self, key: str, answers: Tensor, records: Sequence[ReplayRecord]) -> None:
        """Write one batch's new tokens (batch, t) and records; they are on disk at the return.

        Nothing is written where an outcome depended on the moment.
        """
        told = [record.model_dump(mode="json") for record in records]
        if all(map(lasting, told)):
            self._file.add({"key": key, "answers": answers.tolist(), "records": told})
