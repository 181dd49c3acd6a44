"""Answer a batch: what ``generate`` returns for it, and a record of every answer."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from replay_core.digest import content_digest
from replay_core.model.vision import Inputs
from replay_core.record import ReplayRecord, Seconds, answer_fields, make_record
from replay_core.result import ReplayResult
from replay_core.sampling import SeededRows, seeds_of_copies
from replay_core.steered import Steered
from replay_core.stopping import stops_of


@dataclass(frozen=True)
class Answers:
    """A batch's answers.

    ``ids`` (answers, prompt + t) are prompts and answers, as ``generate`` returns them: as many of
    each prompt in a row as ``num_return_sequences`` asks for. ``records`` has one of each answer,
    ``prompt`` is the length of the padded prompts.
    """

    ids: Tensor
    records: tuple[ReplayRecord, ...]
    prompt: int

    @property
    def new(self) -> Tensor:
        """The answers' own ids (answers, t)."""
        return self.ids[:, self.prompt :]


def answer(
    steered: Steered,
    inputs: Inputs,
    generation: Mapping[str, Any],
    *,
    seeds: Sequence[int] | None = None,
    result: ReplayResult | None = None,
) -> Answers:
    """Return the answers to a batch of prompts, and their records.

    ``inputs`` are the processor's whole output, ``generation`` what ``generate`` takes beside it.
    ``seeds``, one per prompt, draw sampled tokens, each answer's from a stream of its own; without
    them they follow from the prompts. ``result`` says how the batch is steered; without it,
    ``steered.optimise`` finds out, with the same seeds.

    Raises:
        UsageError: there is not one seed for each prompt, or pixels are missing.
        ReplayError: with ``config.strict``, when a sample diverges or is not finite.
    """
    seeds = steered.seeds(inputs) if seeds is None else seeds
    if result is None:
        result = steered.optimise(inputs, seeds=seeds)
    defaults = steered.answering.generation_config
    sampled = generation.get("do_sample", defaults.do_sample)
    started = time.perf_counter()
    ids: Tensor
    if steered.decoder is not None:
        ids = steered.decode(inputs, result, seeds=seeds, **generation)
    else:
        with SeededRows(seeds) if sampled else nullcontext():
            ids = steered.decode(inputs, result, **generation)
    seconds = time.perf_counter() - started
    prompt = inputs["input_ids"].shape[1]
    ends = generation.get("eos_token_id", defaults.eos_token_id)
    limit = generation.get("max_new_tokens", defaults.max_new_tokens)
    ends = list(ends) if isinstance(ends, list | tuple) else [ends]
    limit = ids.shape[1] - prompt if limit is None else limit
    stopped = stops_of(ids[:, prompt:], generation)
    for row, length in stopped.items():  # a short row's padding is none of its tokens
        ids[row, prompt + length :] = ends[0]
    fields = answer_fields(ids[:, prompt:], set(ends), limit)
    for row, length in stopped.items():
        fields[row] = {"new_tokens": length, "finish_reason": "stop", "truncated": False}
    copies = len(ids) // len(seeds)
    for own, seed in zip(fields, seeds_of_copies(seeds, copies), strict=True):
        own["seed"] = seed
    return Answers(ids, records_of(steered, result, fields, decode_seconds=seconds), prompt)


def records_of(
    steered: Steered,
    result: ReplayResult,
    answers: Sequence[Mapping[str, Any]] | None = None,
    *,
    decode_seconds: float = 0.0,
) -> tuple[ReplayRecord, ...]:
    """Return the records of a batch; ``answers`` are further fields of the schema for each.

    There are as many answers to each sample of ``result``, side by side; one where None.
    """
    answers = [{}] * len(result.samples) if answers is None else answers
    copies = len(answers) // len(result.samples)
    shared = Seconds(
        base=result.seconds.base / len(answers),
        loop=result.seconds.loop / len(answers),
        decode=decode_seconds / len(answers),
    )
    samples = [sample for sample in result.samples for _ in range(copies)]
    plan = result.memory
    memory: dict[str, Any] = {}
    if plan is not None:
        memory = {"estimated_memory_mb": plan.needed_mb, "checkpointing": plan.recompute}
    return tuple(
        make_record(
            steered.pair,
            steered.config,
            sample,
            seconds=shared,
            batch_size=len(result.samples),
            peak_memory_mb=result.peak_memory_mb,
            **memory,
            error=result.error,
            stored=result.stored,
            decoder=steered.decoder_name,
            **fields,
        )
        for sample, fields in zip(samples, answers, strict=True)
    )


class Recent:
    """``steered.optimise`` that remembers the last batch, by its content.

    The same inputs and seeds give the same x, since settings and weights are those of ``steered``:
    k answers to one prompt need one descent. Only one batch is kept, so that memory is bounded:
    ask for all answers to a batch in a row.
    """

    def __init__(self, steered: Steered) -> None:
        self._steered = steered
        self._last: tuple[str, ReplayResult] | None = None

    def optimise(self, inputs: Inputs, *, seeds: Sequence[int]) -> ReplayResult:
        """Return what ``steered.optimise`` returns; seconds are 0 where it was remembered."""
        key = content_digest(inputs, seeds)
        if self._last is not None and self._last[0] == key:
            return replace(self._last[1], seconds=Seconds())
        self._last = None  # its memory, before the next descent needs it
        result = self._steered.optimise(inputs, seeds=seeds)
        self._last = (key, result)
        return result

    def forget(self) -> None:
        """Let go of what is remembered."""
        self._last = None
