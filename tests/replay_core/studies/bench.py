"""A bench without a harness: prompts of a tiny pair, and answers that were planted.

The studies do all that they do in a harness, but for asking a model: an arm's answers are those of
its plan, which is drawn from what the arm changes of the default settings, so that no two arms
agree in any number, and a setting that is added changes none.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replay_core import ReplayConfig, ReplayRecord, UsageError
from replay_core.outcome import Outcome
from replay_core.record import Seconds
from replay_core.studies.answers import Answered
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Prompts, Respond
from tests.replay_core.helpers import Loaded

PROMPT = "the same for every arm"
RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class Plan:
    """What an arm answers, and at what cost; arrays are (documents,)."""

    correct: np.ndarray
    """Whether the greedy answer is right."""
    counts: np.ndarray
    """How many of ``samples`` sampled answers are right."""
    seconds: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray
    before: np.ndarray
    after: np.ndarray
    masked: np.ndarray
    """(documents, 2): the masked share at layers 0 and 2."""
    steers: bool


class Plans:
    """Arm → its plan; plain answers take ``plain_seconds``, those of ``replay`` ``seconds``."""

    def __init__(
        self,
        documents: int,
        samples: int,
        replay: ReplayConfig,
        *,
        seconds: float = 0.35,
        plain_seconds: float = 0.05,
    ) -> None:
        self.documents, self.samples = documents, samples
        self.none = np.random.default_rng(11).random(documents) < 0.6
        self.hard = np.random.default_rng(12).random(documents)
        self._replay = _name(Arm("", replay).settings())
        self._seconds, self._plain_seconds = seconds, plain_seconds
        self._made: dict[str, Plan] = {}

    def of(self, settings: Mapping[str, Any]) -> Plan:
        """Return the plan of an arm with these settings, as ``Arm.settings`` gives them."""
        name = _name(settings)
        if name not in self._made:
            self._made[name] = self._make(name, settings)
        return self._made[name]

    def _make(self, name: str, settings: Mapping[str, Any]) -> Plan:
        config = settings["config"]
        steers = config["method"] == "replay"
        alone = config["method"] == "none" and settings["votes"] == 1
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        n = self.documents
        fixing, breaking = rng.uniform(0.1, 0.4, 2)
        correct = np.where(self.none, rng.random(n) >= breaking, rng.random(n) < fixing)
        mean = rng.uniform(0.1, 0.9)
        if alone:
            mean = self._plain_seconds
        if name == self._replay:
            mean = self._seconds
        spread = rng.uniform(0.8, 1.2, n)
        return Plan(
            correct=self.none if alone else correct,
            counts=rng.binomial(self.samples, rng.uniform(0.2, 0.8) * self.hard),
            seconds=mean * spread / spread.mean(),
            tokens=rng.integers(3, rng.integers(8, 40), n),
            truncated=rng.random(n) < rng.uniform(0.05, 0.5),
            before=rng.uniform(2, 4, n),
            after=rng.uniform(0.1, rng.uniform(0.5, 1.5), n),
            masked=rng.uniform(0, rng.uniform(0.2, 1, 2), (n, 2)),
            steers=steers,
        )

    def answers(self, arm: Arm, document: int, repeats: int) -> list[Answered]:
        """Return the answers to one document, as the answering of an arm makes them."""
        plan = self.of(arm.settings())
        right = [bool(plan.correct[document])]
        if repeats > 1:
            right = [number < plan.counts[document] for number in range(repeats)]
        known: dict[str, Any] = {
            "new_tokens": int(plan.tokens[document]),
            "truncated": bool(plan.truncated[document]),
            "seconds": Seconds(decode=float(plan.seconds[document])),
        }
        if plan.steers:
            known |= {
                "outcome": Outcome.APPLIED,
                "loss_after": float(plan.after[document]),
                "masked_fraction": dict(zip((0, 2), plan.masked[document].tolist(), strict=True)),
            }
        losses = (float(plan.before[document]), 1.0) if plan.steers else ()
        return [
            answered(arm.name, document, RIGHT if good else WRONG, repeat, losses, **known)
            for repeat, good in enumerate(right)
        ]


def _name(settings: Mapping[str, Any]) -> str:
    changed = ReplayConfig(**settings["config"]).model_dump(mode="json", exclude_defaults=True)
    return json.dumps({**settings, "config": changed}, sort_keys=True)


def answered(
    arm: str,
    document: int,
    text: str,
    repeat: int = 0,
    losses: tuple[float, ...] = (),
    correct: float = 0.0,
    **known: Any,
) -> Answered:
    """Return a planted answer; ``known`` are fields of its record."""
    names = dict.fromkeys(("pair", "policy_revision", "base_revision", "config_hash"), "planted")
    plain = {"versions": {}, "method": "none", "outcome": Outcome.OFF, "delta_norm": 1.0}
    record = ReplayRecord(**{**names, **plain, **known})
    return Answered(
        arm=arm,
        document=document,
        repeat=repeat,
        text=text,
        correct=correct,
        prompt=PROMPT,
        losses=losses,
        record=record,
    )


@dataclass
class Bench:
    """A bench without a harness; ``inputs`` are the prompts of documents, taken in turn."""

    loaded: Loaded
    config: ReplayConfig
    size: int
    plans: Plans | None = None
    texts: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Document → its sampled answers' texts, where they matter."""
    right: Sequence[str] = (RIGHT,)
    name: str = "planted"
    batch_size: int = 40

    def __post_init__(self) -> None:
        self.pair = self.loaded.pair
        self._inputs = self.loaded.singles("one_image")

    def identity(self) -> dict[str, Any]:
        return {"task": self.name, "policy_revision": "sha256:planted"}

    def documents(self, n: int | None, offset: int = 0) -> list[int]:
        found = list(range(offset, min(self.size, offset + (self.size if n is None else n))))
        if not found:
            raise UsageError(f"task {self.name} has no documents behind number {offset}")
        return found

    def inputs(self, document: int) -> Any:
        return self._inputs[document % len(self._inputs)]

    def prompts(self, documents: Sequence[int]) -> list[Prompts]:
        return [Prompts(dict(self.inputs(d)), {}, (d,)) for d in documents]

    def answer(self, documents: Sequence[int], respond: Respond) -> list[str]:
        """Answer each document alone, as the numbers of its new tokens."""
        texts = []
        for prompts in self.prompts(documents):
            new = respond(prompts)[:, prompts.inputs["input_ids"].shape[1] :]
            texts += [" ".join(map(str, row)) for row in new.tolist()]
        return texts

    def score(self, document: int, text: str, metric: str | None = None) -> float:
        return float(text in self.right)

    def seed(self, document: int, repeat: int = 0, seed: int | None = None) -> int:
        return 1000 * document + repeat + (seed or 0)

    def encode(self, text: str) -> list[int]:
        tokenizer = self.loaded.processor.tokenizer
        return [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]

    def decode(self, tokens: Sequence[int]) -> list[str]:
        return [f"word {token}" for token in tokens]


class Answerer:
    """Stands in for the answering of an arm: gives the answers of the bench's plans."""

    def __init__(
        self, bench: Bench, arm: Arm, documents: Sequence[int], metric: str | None, sampling: Any
    ) -> None:
        self.bench, self.arm, self.metric = bench, arm, metric

    def answers(self, chunk: Sequence[int], repeats: int) -> list[Answered]:
        return [one for document in chunk for one in self._answers(document, repeats)]

    def _answers(self, document: int, repeats: int) -> list[Answered]:
        assert self.bench.plans is not None
        made = self.bench.plans.answers(self.arm, document, repeats)
        texts = self.bench.texts.get(document, [one.text for one in made])
        return [
            one.model_copy(
                update={"text": text, "correct": self.bench.score(document, text, self.metric)}
            )
            for one, text in zip(made, texts, strict=True)
        ]
