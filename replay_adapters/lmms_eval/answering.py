"""How a batch gets its answers: from the journal or the pair, and none where it is unreadable."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from replay_adapters.lmms_eval.batches import Row
from replay_adapters.lmms_eval.journal import BatchJournal
from replay_adapters.lmms_eval.unreadable import taken_back
from replay_adapters.session.session import Session
from replay_core import Outcome, ReplayRecord, Steered
from replay_core.answer import Recent
from replay_core.enduring import Enduring
from replay_core.model.vision import Inputs
from replay_core.outcome import SampleReplay
from replay_core.record import make_record
from replay_core.result import ReplayResult
from replay_core.seeds import stable_seed


class Answerer:
    """Answers batches with one pair; keeps the answers in a journal where there is one.

    ``reuse``: in a conversation, the x of earlier turns' pictures is kept (on the CPU, until
    :meth:`forget` is told that it is over). A turn that the journal answers has its x found again
    then, since later turns need it.
    """

    def __init__(
        self, steered: Steered, journal: BatchJournal | None, *, reuse: bool = False
    ) -> None:
        self._steered, self._recent, self._journal = steered, Recent(steered), journal
        self._enduring = Enduring(steered)
        self.reuse = reuse
        self._kept: dict[tuple[Any, ...], Tensor | None] = {}
        self.stop: tuple[str, Any] | None = None
        """A text behind which answers end, and the tokenizer that knows its tokens."""

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
        # A first turn has the seed that the document has in a task without turns.
        later = [(row.turn,) if row.turn else () for row in rows]
        seeds = [
            stable_seed(first, *row.key, row.repeat, *turn)
            for row, turn in zip(rows, later, strict=True)
        ]
        unread = [
            self._unread(session.faults.get(row.key), seed)
            for row, seed in zip(rows, seeds, strict=True)
        ]
        prompt = inputs["input_ids"]
        made: tuple[Tensor, Sequence[ReplayRecord]] = prompt, []
        if None in unread:
            # x is the document's, whichever of its answers this is.
            own = [
                stable_seed(first, *row.key, 0, *turn)
                for row, turn in zip(rows, later, strict=True)
            ]
            stopping: dict[str, Any] = {}
            if self.stop is not None:
                generation = {**generation, "stop_strings": [self.stop[0]]}
                stopping = {"tokenizer": self.stop[1]}
            key = self._journal.key(inputs, generation, seeds) if self._journal else ""
            found = self._journal.find(key, prompt) if self._journal else None
            if found is not None and self.reuse and rows[0].turn is not None:
                self._optimised(rows, inputs, own, again=again)
            if found is None:
                how = {**generation, **stopping}

                def steer(part: Inputs, places: Sequence[int]) -> ReplayResult:
                    asked = [rows[at] for at in places]
                    return self._optimised(asked, part, [own[at] for at in places], again=again)

                new = self._enduring.answer(inputs, how, seeds=seeds, optimise=steer)
                if self._journal:
                    self._journal.keep(key, new.new, new.records)
                found = new.ids, list(new.records)
            made = found
        output, records = taken_back(*made, prompt, unread, generation["eos_token_id"])
        for row, record in zip(rows, records, strict=True):
            if row.wanted:
                if row.turn is not None:
                    record = record.model_copy(update={"turn": row.turn})
                session.records.add(*row.key, record)
        return output

    def _optimised(
        self, rows: Sequence[Row], inputs: Inputs, seeds: Sequence[int], *, again: bool
    ) -> ReplayResult:
        kept = [self._kept.get((*row.key, row.repeat)) for row in rows]
        if any(one is not None for one in kept):
            result = self._steered.optimise(inputs, seeds=seeds, kept=kept)
        else:
            optimise = self._recent.optimise if again else self._steered.optimise
            result = optimise(inputs, seeds=seeds)
        for number, row in enumerate(rows):
            if self.reuse and row.turn is not None:
                found = result.of(number)
                self._kept[*row.key, row.repeat] = None if found is None else found.cpu()
        return result

    def forget(self, conversations: bool = False) -> None:
        """Let go of the last batch's x; and of what is kept of ``conversations``."""
        self._recent.forget()
        if conversations:
            self._kept.clear()

    def _unread(self, why: str | None, seed: int) -> ReplayRecord | None:
        """Return the record of a row that cannot be answered; None where nothing stands against."""
        if why is None:
            return None
        sample = SampleReplay(Outcome.UNREADABLE_INPUT)
        return make_record(self._steered.pair, self._steered.config, sample, error=why, seed=seed)
