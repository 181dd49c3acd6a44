"""Arms answer a bench's documents; each answer is kept as soon as it is there."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from replay_core.answer import answer
from replay_core.digest import settings_digest
from replay_core.record import ReplayRecord, Seconds
from replay_core.result import ReplayResult
from replay_core.steered import Steered
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench, Prompts, chunks, digests
from replay_core.studies.report import Rows
from replay_core.studies.treatments import joined_pictures, majority, self_pair, with_pictures_of

# Part of what kept answers are found by: an older form of them is never read as this one.
_FORM = 2


class Answered(BaseModel):
    """One answer of one arm to one document."""

    model_config = ConfigDict(frozen=True)

    arm: str = Field(description="the arm's name")
    document: int = Field(description="the document's number")
    repeat: int = Field(description="0 for the first answer to the document, and so on")
    text: str = Field(description="the answer")
    correct: float = Field(description="the task's own score of the text")
    prompt: str = Field(description="digest of the prompt's tokens and pixels")
    losses: tuple[float, ...] = Field(description="masked KL at every step of the loop, in nats")
    record: ReplayRecord = Field(description="what is known of the sample")

    @property
    def seconds(self) -> float:
        """Seconds that the answer took, of base, loop and decoding together."""
        return self.record.seconds.total


def run_arms(
    bench: Bench,
    folder: Path,
    arms: Sequence[Arm],
    documents: Sequence[int],
    *,
    metric: str | None = None,
    repeats: int = 1,
    sampling: Mapping[str, Any] | None = None,
    label: str = "answers",
) -> list[Answered]:
    """Return the answer of every arm to every document, arm by arm.

    Answers that ``folder`` holds already are not made again; all studies of a folder share them.
    All arms see byte-identical prompts: they are made anew for each arm, and a digest is compared.
    With ``sampling`` (generation settings) each document is answered ``repeats`` times, x optimised
    once.

    Raises:
        RuntimeError: two arms were given different prompts.
    """
    settings = {**bench.identity(), "metric": metric, "batch_size": bench.batch_size}
    rows = Rows(folder, "answers", {**settings, "form": _FORM}, ("arm_hash", "document", "repeat"))
    hashed = [(arm, settings_digest({**arm.settings(), "sampling": sampling})) for arm in arms]
    with tqdm(total=len(arms) * len(documents) * repeats, desc=label, unit="answer") as bar:
        for chunk in chunks(bench, documents):
            for arm, arm_hash in hashed:
                keys = [(arm_hash, d, repeat) for d in chunk for repeat in range(repeats)]
                if not all(key in rows for key in keys):
                    made = Answerer(bench, arm, documents, metric, sampling).answers(chunk, repeats)
                    rows.add({"arm_hash": arm_hash, **one.model_dump(mode="json")} for one in made)
                bar.update(len(keys))
    found = {(row["arm_hash"], row["document"], row["repeat"]): row for row in rows}
    answers = [
        Answered.model_validate({**found[arm_hash, document, repeat], "arm": arm.name})
        for arm, arm_hash in hashed
        for document in documents
        for repeat in range(repeats)
    ]
    prompts: dict[int, str] = {}
    for one in answers:
        if prompts.setdefault(one.document, one.prompt) != one.prompt:
            raise RuntimeError(
                f"arm {one.arm} got another prompt for document {one.document} than the arm before "
                "it; the task's prompts are not deterministic"
            )
    return answers


class Answerer:
    """One arm at work; x of a batch is kept for its repeats."""

    def __init__(
        self,
        bench: Bench,
        arm: Arm,
        documents: Sequence[int],
        metric: str | None,
        sampling: Mapping[str, Any] | None,
    ) -> None:
        self.bench, self.arm, self.metric = bench, arm, metric
        votes = arm.treatment == "votes" and sampling is None
        self.sampling = {"temperature": 1.0} if votes else sampling
        self.steered = Steered(
            self_pair(bench.pair) if arm.treatment == "self_pair" else bench.pair, arm.config
        )
        # Whose picture a document is lent: the next one's.
        self._lender = dict(zip(documents, [*documents[1:], *documents[:1]], strict=True))
        self._lent: dict[int, dict[str, Tensor]] = {}
        self._last: tuple[list[str], ReplayResult] | None = None
        self._known: dict[int, dict[str, Any]] = {}

    def answers(self, chunk: Sequence[int], repeats: int) -> list[Answered]:
        """Return the answers to one group of documents, repeat by repeat."""
        if self.arm.treatment == "shuffled":
            for document in chunk:
                (prompts,) = self.bench.prompts([self._lender[document]])
                self._lent[document] = prompts.inputs
        if self.arm.treatment == "votes":
            return self._elected(chunk)
        return [
            self._scored(document, repeat, text)
            for repeat in range(repeats)
            for document, text in self._texts(chunk, repeat).items()
        ]

    def _elected(self, chunk: Sequence[int]) -> list[Answered]:
        """Return each document's most frequent answer, at the cost of all of them."""
        ballots: dict[int, list[str]] = {document: [] for document in chunk}
        spent = dict.fromkeys(chunk, 0.0)
        for repeat in range(self.arm.votes):
            for document, text in self._texts(chunk, repeat).items():
                ballots[document].append(text)
                spent[document] += self._known[document]["record"].seconds.total
        for document, seconds in spent.items():
            known = self._known[document]
            known["record"] = known["record"].model_copy(
                update={"seconds": Seconds(decode=seconds)}
            )
        return [self._scored(document, 0, majority(texts)) for document, texts in ballots.items()]

    def _texts(self, chunk: Sequence[int], repeat: int) -> dict[int, str]:
        """Return document → text; what else is known of the answers is in ``_known``."""
        texts = self.bench.answer(chunk, lambda prompts: self._respond(prompts, repeat))
        return dict(zip(chunk, texts, strict=True))

    def _scored(self, document: int, repeat: int, text: str) -> Answered:
        return Answered(
            arm=self.arm.name,
            document=document,
            repeat=repeat,
            text=text,
            correct=self.bench.score(document, text, self.metric),
            **self._known[document],
        )

    def _respond(self, prompts: Prompts, repeat: int) -> Tensor:
        """Stand in for ``model.generate``; note what is known of each row."""
        identities = digests(self.bench, prompts)
        if self._last is None or self._last[0] != identities:
            result = self._optimise(prompts)
            self._last = identities, replace(result, seconds=Seconds())
        else:
            result = self._last[1]
        generation = prompts.generation
        if self.sampling is not None:
            widely = {"do_sample": True, "top_k": 0, "top_p": 1.0}
            generation = {**generation, **widely, **self.sampling}
        seeds = [self.bench.seed(document, repeat) for document in prompts.documents]
        made = answer(self.steered, prompts.inputs, generation, seeds=seeds, result=result)
        for document, sample, record, identity in zip(
            prompts.documents, result.samples, made.records, identities, strict=True
        ):
            losses = tuple(float(f"{loss:.5g}") for loss in sample.losses)
            self._known[document] = {"prompt": identity, "losses": losses, "record": record}
        return made.ids

    def _optimise(self, prompts: Prompts) -> ReplayResult:
        """Return how a batch is steered; random positions are drawn by document, not by repeat."""
        seeds = [self.bench.seed(document) for document in prompts.documents]
        targets = None
        if self.arm.treatment == "shuffled":
            lent = joined_pictures([self._lent[document] for document in prompts.documents])
            vision = getattr(self.bench.pair.policy.model.config, "vision_config", None)
            merge = int(getattr(vision, "spatial_merge_size", 2))
            swapped = with_pictures_of(prompts.inputs, lent, merge)
            targets = self.steered.targets(swapped, seeds=seeds)
        return self.steered.optimise(prompts.inputs, targets=targets, seeds=seeds)


def by_arm(answers: Sequence[Answered]) -> dict[str, list[Answered]]:
    """Return arm → its answers, in order."""
    found: dict[str, list[Answered]] = defaultdict(list)
    for one in answers:
        found[one.arm].append(one)
    return dict(found)
