"""Answer a batch although memory runs out, or something fails, in one of its samples.

The rungs, each taken only where the one before it failed:

1. the whole batch;
2. each prompt on its own;
3. the prompt on its own without replay, so that the plain policy answers;
4. no answer.

From the third on the sample's outcome says so (``out_of_memory``, ``failed``), and the run goes on.
What spends time to save memory within one loop belongs into :meth:`Steered.optimise`, which is
asked on the first two.
"""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from replay_core.answer import Answers, answer
from replay_core.faults import Fault, ends_the_run, out_of_memory
from replay_core.model.padding import left_padded
from replay_core.model.rows import rows_of
from replay_core.model.vision import Inputs
from replay_core.outcome import Outcome, SampleReplay
from replay_core.record import make_record
from replay_core.result import ReplayResult
from replay_core.sampling import seeds_of_copies
from replay_core.steered import Steered

# Prompts, and which of the batch they are → how they are steered.
Optimise = Callable[[Inputs, Sequence[int]], ReplayResult]

# So many samples in a row that fail, other than for memory, are not the samples' fault.
MANY = 8

_log = logging.getLogger(__name__)


class Enduring:
    """Answers batches with one pair; a sample that cannot be answered costs no other one its own.

    With ``config.strict`` everything is raised. An exception is raised all the same where it leaves
    the accelerator unusable, and at the :data:`MANY`-th sample in a row that fails.
    """

    def __init__(self, steered: Steered) -> None:
        self._steered = steered
        self._in_a_row = 0

    def answer(
        self,
        inputs: Inputs,
        generation: Mapping[str, Any],
        *,
        seeds: Sequence[int],
        optimise: Optimise,
    ) -> Answers:
        """Return what :func:`replay_core.answer.answer` does; rows without an answer end at once.

        ``optimise`` says how prompts are steered; it is given them and their places in the batch.
        """
        places = range(len(inputs["input_ids"]))
        made = self._tried(inputs, generation, seeds, optimise, places)
        if isinstance(made, Answers):
            return made
        self._let_go()
        if len(places) == 1:
            return self._without_replay(inputs, generation, seeds, made)
        prompts = left_padded(inputs) if self._steered.config.steers else inputs
        rows = rows_of(self._steered.pair.policy.model, prompts)
        if rows is None:
            return self._without_replay(inputs, generation, seeds, made)
        _log.warning("a batch of %d is answered one by one: %s", len(rows), made.error)
        return self._joined(
            [
                self._alone(row, generation, seeds[at], optimise, at)
                for at, row in zip(places, rows, strict=True)
            ],
            generation,
        )

    def _alone(
        self, row: Inputs, generation: Mapping[str, Any], seed: int, optimise: Optimise, at: int
    ) -> Answers:
        made = self._tried(row, generation, [seed], optimise, [at])
        if isinstance(made, Answers):
            return made
        self._let_go()
        return self._without_replay(row, generation, [seed], made)

    def _tried(
        self,
        inputs: Inputs,
        generation: Mapping[str, Any],
        seeds: Sequence[int],
        optimise: Optimise,
        places: Sequence[int],
    ) -> Answers | Fault:
        """Return the answers, or why there are none."""
        try:
            result = optimise(inputs, places)
            short = any(one.outcome is Outcome.OUT_OF_MEMORY for one in result.samples)
            if short and len(places) > 1:
                return Fault(Outcome.OUT_OF_MEMORY, str(result.error))
            made = answer(self._steered, inputs, generation, seeds=seeds, result=result)
        except Exception as error:
            self._raise_if_it_must_be(error, alone=len(places) == 1)
            return Fault.of(error)
        self._in_a_row = 0
        return made

    def _raise_if_it_must_be(self, error: Exception, *, alone: bool) -> None:
        """Raise what no sample's outcome can stand for; log the rest with where it came from."""
        if self._steered.config.strict or ends_the_run(error):
            raise error
        if alone and not out_of_memory(error):
            self._in_a_row += 1
            if self._in_a_row >= MANY:
                _log.error("%d samples in a row have failed, so that the run ends", MANY)
                raise error
        if alone:
            _log.warning("a sample failed and the run goes on", exc_info=error)

    def _without_replay(
        self,
        inputs: Inputs,
        generation: Mapping[str, Any],
        seeds: Sequence[int],
        fault: Fault,
    ) -> Answers:
        """Return the plain policy's answers; empty ones where it has none either."""
        if self._steered.config.steers:
            plain = ReplayResult.untouched(fault.outcome, len(seeds), error=fault.error)
            try:
                return answer(self._steered, inputs, generation, seeds=seeds, result=plain)
            except Exception as error:
                if ends_the_run(error):
                    raise
                _log.warning("nor is there an answer without replay", exc_info=error)
                fault = Fault.of(error)
            self._let_go()
        return self._empty(inputs, generation, seeds, fault)

    def _empty(
        self,
        inputs: Inputs,
        generation: Mapping[str, Any],
        seeds: Sequence[int],
        fault: Fault,
    ) -> Answers:
        prompts = (left_padded(inputs) if self._steered.config.steers else inputs)["input_ids"]
        copies = int(generation.get("num_return_sequences") or 1)
        records = tuple(
            make_record(
                self._steered.pair,
                self._steered.config,
                SampleReplay(fault.outcome),
                error=fault.error,
                seed=seed,
                batch_size=len(seeds),
                new_tokens=0,
                decoder=self._steered.decoder_name,
            )
            for seed in seeds_of_copies(seeds, copies)
        )
        end = prompts.new_full((len(records), 1), self._end(generation))
        ids = torch.cat([prompts.repeat_interleave(copies, 0), end], 1)
        return Answers(ids, records, prompts.shape[1])

    def _joined(self, parts: Sequence[Answers], generation: Mapping[str, Any]) -> Answers:
        """Return the answers of several rows as those of one batch."""
        longest = max(part.ids.shape[1] for part in parts)
        end = self._end(generation)

        def filled(ids: Tensor) -> Tensor:
            return torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=end)

        ids = torch.cat([filled(part.ids) for part in parts])
        records = tuple(record for part in parts for record in part.records)
        return Answers(ids, records, parts[0].prompt)

    def _end(self, generation: Mapping[str, Any]) -> int:
        """Return the token that ends an answer."""
        defaults = self._steered.answering.generation_config
        ends = generation.get("eos_token_id", defaults.eos_token_id)
        return int(ends[0] if isinstance(ends, list | tuple) else ends)

    def _let_go(self) -> None:
        """Free what a failed attempt has left, before the next one needs it."""
        gc.collect()
        torch.cuda.empty_cache()
