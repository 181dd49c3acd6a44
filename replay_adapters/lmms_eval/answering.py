"""How a batch gets its answers: from the journal or the pair, and none where it is unreadable."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from replay_adapters.lmms_eval.batches import Row
from replay_adapters.lmms_eval.journal import BatchJournal
from replay_adapters.lmms_eval.unreadable import taken_back
from replay_adapters.session.session import Session
from replay_core import Outcome, ReplayRecord, Steered
from replay_core.answer import Recent, answer
from replay_core.model.vision import Inputs
from replay_core.outcome import SampleReplay
from replay_core.record import make_record
from replay_core.seeds import stable_seed


class Answerer:
    """Answers batches with one pair; keeps the answers in a journal where there is one."""

    def __init__(self, steered: Steered, journal: BatchJournal | None) -> None:
        self._steered, self._recent, self._journal = steered, Recent(steered), journal

    def answer(
        self,
        session: Session,
        rows: Sequence[Row],
        inputs: Inputs,
        generation: Mapping[str, Any],
        *,
        again: bool,
    ) -> Tensor:
        """Return what ``generate`` returns for a batch (batch, prompt + t), and record each row.

        A row whose document is unreadable gets no answer. ``again`` says that the batch may be
        asked for more answers; its x is kept for them.
        """
        first = self._steered.config.seed
        seeds = [stable_seed(first, *row.key, row.repeat) for row in rows]
        unread = [
            self._unread(session.faults.get(row.key), seed)
            for row, seed in zip(rows, seeds, strict=True)
        ]
        prompt = inputs["input_ids"]
        made: tuple[Tensor, Sequence[ReplayRecord]] = prompt, []
        if None in unread:
            # x is the document's, whichever of its answers this is.
            own = [stable_seed(first, *row.key, 0) for row in rows]
            optimise = self._recent.optimise if again else self._steered.optimise
            key = self._journal.key(inputs, generation, seeds) if self._journal else ""
            found = self._journal.find(key, prompt) if self._journal else None
            if found is None:
                result = optimise(inputs, seeds=own)
                new = answer(self._steered, inputs, generation, seeds=seeds, result=result)
                if self._journal:
                    self._journal.keep(key, new.new, new.records)
                found = new.ids, list(new.records)
            made = found
        output, records = taken_back(*made, prompt, unread, generation["eos_token_id"])
        for row, record in zip(rows, records, strict=True):
            if row.wanted:
                session.records.add(*row.key, record)
        return output

    def forget(self) -> None:
        """Let go of the last batch's x."""
        self._recent.forget()

    def _unread(self, why: str | None, seed: int) -> ReplayRecord | None:
        """Return the record of a row that cannot be answered; None where nothing stands against."""
        if why is None:
            return None
        sample = SampleReplay(Outcome.UNREADABLE_INPUT)
        return make_record(self._steered.pair, self._steered.config, sample, error=why, seed=seed)
