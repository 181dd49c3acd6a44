"""Arms answer a task's documents: one row per answer, kept as soon as it is measured."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from replay_core import ReplayResult, Steered
from replay_core.digest import settings_digest
from replay_core.record import answer_fields
from replay_core.sampling import SeededRows
from replay_core.seeds import stable_seed
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench, Prompts, chunks, digests
from replay_core.studies.report import Row, Rows
from replay_core.studies.treatments import (
    joined_pictures,
    majority,
    random_like,
    self_pair,
    with_pictures_of,
)

Scores = dict[str, dict[Hashable, float]]
Report = Callable[[str], None]


def answer_rows(folder: Path, source: Bench, metric: str | None) -> Rows:
    """Return the folder's answers of this source; all studies of a folder share them."""
    settings = {**source.identity(), "metric": metric, "batch_size": source.batch_size}
    return Rows(folder, "answers", settings, ("arm_hash", "document", "repeat"))


def run_arms(
    source: Bench,
    arms: Sequence[Arm],
    documents: Sequence[int],
    rows: Rows,
    *,
    metric: str | None = None,
    repeats: int = 1,
    sampling: dict[str, Any] | None = None,
    label: str = "answers",
) -> list[Row]:
    """Answer every document under every arm and return the rows, arm by arm.

    Answers that ``rows`` holds already are not made again. All arms see byte-identical prompts:
    the harness makes them anew for each arm, and a digest is compared. With ``sampling``
    (generation settings) each document is answered ``repeats`` times, x optimised once.

    Raises:
        RuntimeError: the harness gave two arms different prompts.
    """
    prompts: dict[int, str] = {}
    wanted = [(arm, settings_digest({**arm.settings(), "sampling": sampling})) for arm in arms]
    total = len(arms) * len(documents) * repeats
    with tqdm(total=total, desc=label, unit="answer") as bar:
        for chunk in chunks(source, documents):
            for arm, arm_hash in wanted:
                numbers = range(repeats)
                keys = {(arm_hash, d, number) for d in chunk for number in numbers}
                if not all(key in rows for key in keys):
                    answerer = _Answerer(source, arm, documents, sampling)
                    made = answerer.rows(chunk, repeats)
                    for row in made:
                        row["correct"] = source.score(row["document"], row["text"], metric)
                    rows.add({"arm": arm.name, "arm_hash": arm_hash, **row} for row in made)
                bar.update(len(keys))
    found = {(row["arm_hash"], row["document"], row["repeat"]): row for row in rows}
    kept = [
        {**found[arm_hash, document, number], "arm": arm.name}
        for arm, arm_hash in wanted
        for document in documents
        for number in range(repeats)
    ]
    for row in kept:
        if prompts.setdefault(row["document"], row["prompt"]) != row["prompt"]:
            raise RuntimeError(
                f"arm {row['arm']} got another prompt for document {row['document']} than the "
                "arm before it; the task's prompts are not deterministic"
            )
    return kept


def scores(rows: Iterable[Row]) -> Scores:
    """Return arm → document → score of the first answer."""
    table: Scores = defaultdict(dict)
    for row in rows:
        if row["repeat"] == 0:
            table[row["arm"]][row["document"]] = row["correct"]
    return dict(table)


class _Answerer:
    """One arm at work; x of a batch is kept for its repeats."""

    def __init__(
        self, source: Bench, arm: Arm, documents: Sequence[int], sampling: dict[str, Any] | None
    ) -> None:
        self.source, self.arm, self.sampling = source, arm, sampling
        self._next = dict(zip(documents, [*documents[1:], *documents[:1]], strict=True))
        pair = self_pair(source.pair) if arm.treatment == "self_pair" else source.pair
        self.steered = Steered(pair, arm.config)
        self._kept: dict[str, ReplayResult] = {}
        self._donors: dict[int, dict[str, torch.Tensor]] = {}
        self._notes: dict[int, Row] = {}

    def rows(self, chunk: Sequence[int], repeats: int) -> list[Row]:
        """Return the rows of one group of documents."""
        if self.arm.treatment == "shuffled":
            for document in chunk:
                (prompts,) = self.source.prompts([self._next[document]])
                self._donors[document] = prompts.inputs
        if self.arm.treatment == "votes":
            return self._voted(chunk)
        made = []
        for repeat in range(repeats):
            self._repeat = repeat
            texts = self.source.answer(chunk, self._respond)
            for document, text in zip(chunk, texts, strict=True):
                note = self._notes[document]
                made.append({"document": document, "repeat": repeat, "text": text, **note})
        return made

    def _voted(self, chunk: Sequence[int]) -> list[Row]:
        """Answer by the most frequent of the arm's sampled answers; its costs are their sum."""
        texts: dict[int, list[str]] = defaultdict(list)
        seconds: dict[int, float] = defaultdict(float)
        self.sampling = self.sampling or {"temperature": 1.0}
        for repeat in range(self.arm.votes):
            self._repeat = repeat
            for document, text in zip(chunk, self.source.answer(chunk, self._respond), strict=True):
                texts[document].append(text)
                seconds[document] += self._notes[document]["seconds"]
        return [
            {
                "document": document,
                "repeat": 0,
                "text": majority(texts[document]),
                **self._notes[document],
                "seconds": seconds[document],
            }
            for document in chunk
        ]

    def _respond(self, prompts: Prompts) -> torch.Tensor:
        seeds = [self.source.seed(d, self._repeat) for d in prompts.documents]
        rows = digests(self.source, prompts)
        identity = " ".join(rows)
        if identity not in self._kept:
            self._kept = {identity: self._optimise(prompts)}
        result = self._kept[identity]
        generation = self._generation(prompts)
        sampled = SeededRows(seeds) if generation.get("do_sample") else nullcontext()
        started = time.perf_counter()
        with sampled:
            if self.arm.config.steers:
                output = self.steered.decode(prompts.inputs, result, **generation)
            else:
                output = self.steered.generate(**prompts.inputs, **generation)
        decoding = time.perf_counter() - started
        self._note(prompts, result, output, generation, decoding, rows)
        return output

    def _optimise(self, prompts: Prompts) -> ReplayResult:
        # The mask of select=random is drawn by document, not by repeat, as x is kept for all.
        seeds = [self.source.seed(document) for document in prompts.documents]
        targets = None
        if self.arm.treatment == "shuffled":
            lenders = [self._donors[document] for document in prompts.documents]
            donor = joined_pictures(lenders)
            merge = getattr(self.source.pair.policy.model.config, "vision_config", None)
            size = int(getattr(merge, "spatial_merge_size", 2))
            lent = with_pictures_of(prompts.inputs, donor, size)
            targets = self.steered.targets(lent, seeds=seeds)
        result = self.steered.optimise(prompts.inputs, targets=targets, seeds=seeds)
        if self.arm.treatment == "random_x":
            result = random_like(result, torch.Generator().manual_seed(stable_seed(*seeds)))
        return result

    def _generation(self, prompts: Prompts) -> dict[str, Any]:
        if self.sampling is None:
            return prompts.generation
        wide = {"do_sample": True, "top_k": 0, "top_p": 1.0}
        return {**prompts.generation, **wide, **self.sampling}

    def _note(
        self,
        prompts: Prompts,
        result: ReplayResult,
        output: torch.Tensor,
        generation: dict[str, Any],
        decoding: float,
        digests: Sequence[str],
    ) -> None:
        eos = generation["eos_token_id"]
        ends = set(eos) if isinstance(eos, list | tuple) else {eos}
        new = output[:, prompts.inputs["input_ids"].shape[1] :]
        answers = answer_fields(new, ends, generation["max_new_tokens"])
        first = self._repeat == 0
        preparing = result.seconds.base + result.seconds.loop if first else 0.0
        share = (preparing + decoding) / len(prompts.documents)
        for document, sample, answer, identity in zip(
            prompts.documents, result.samples, answers, digests, strict=True
        ):
            self._notes[document] = {
                "outcome": sample.outcome.value,
                "losses": [_short(loss) for loss in sample.losses],
                "loss_after": sample.loss_after,
                "masked": dict(sample.masked_fraction),
                "delta_norm": sample.delta_norm,
                "seconds": share,
                "new_tokens": answer["new_tokens"],
                "truncated": answer["truncated"],
                "prompt": identity,
            }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
