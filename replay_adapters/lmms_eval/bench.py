"""Prompts and scores of an lmms-eval task, through the harness's own dataloader and model class."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from replay_adapters.lmms_eval.arguments import check_arguments, parse_model_args
from replay_adapters.lmms_eval.batches import Row
from replay_adapters.lmms_eval.names import MODEL_NAMES
from replay_adapters.lmms_eval.questions import Questions, quiet_bars
from replay_adapters.session.session import Session, opened
from replay_core import Pair, ReplayConfig, UsageError
from replay_core.errors import shown
from replay_core.model.vision import Inputs
from replay_core.seeds import stable_seed
from replay_core.studies.bench import Prompts, Question, Respond

MODEL = "qwen2_vl_replay"


class LmmsEvalBench:
    """A pair in the harness's model class, and one of its tasks.

    ``arguments`` are lmms-eval's ``--model_args`` (a pair, pixels, ``replay_…`` options), which are
    checked as on its command line. Both models are loaded whole, so that every arm can answer.

    Raises:
        UsageError: bad options, an unknown task, or one that does not ask for free text.
    """

    def __init__(
        self,
        arguments: str,
        task: str,
        *,
        batch_size: int = 8,
        model: str = MODEL,
        device: str | None = None,
        include_path: str | None = None,
        metric: str | None = None,
    ) -> None:
        if model not in MODEL_NAMES:
            raise UsageError(
                f"--model {shown(model)} is not allowed (allowed: {', '.join(MODEL_NAMES)})"
            )
        self.name, self.batch_size = task, batch_size
        with opened() as self.session:
            given = parse_model_args(arguments)
            method = given.get("replay_method")
            if method not in (None, "replay"):
                raise UsageError(
                    f"replay_method={shown(method)} is not allowed here: a study sets the method "
                    "of its arms itself"
                )
            if device is not None and "device" in given:
                raise UsageError(
                    f"device={shown(given['device'])} in --model-args does not go with --device "
                    f"{shown(device)} (allowed: one of the two)"
                )
            self.settings = self.session.resolved.settings({**given, "device": device})
            if self.settings.engine is not None:
                raise UsageError(
                    "replay_decode=vllm is not allowed here: a study's answers are written by "
                    "transformers (allowed: replay_decode=transformers)"
                )
            check_arguments(model, batch_size, "")
            checkpoint = self.session.resolved.checkpoint(self.settings)
            self.settings.check_tasks([task])
            every = {"replay_layers": checkpoint.get_text_config().num_hidden_layers}
            flags = {"batch_size": batch_size, "device": device}
            made = _class_of(model)
            kind = getattr(made, "kinds", {}).get(checkpoint.model_type, made)
            self.questions = Questions(
                task, model, simple=kind.is_simple, include_path=include_path
            )
            self.questions.check_metric(metric)
            self.lm = made(**{**given, **_WHOLE, **every, **flags})
        self.lm.task_dict[task] = self.questions.task.dataset
        self._study = self.lm.answerer = _Study()

    @property
    def config(self) -> ReplayConfig:
        """The replay settings of the arguments."""
        return self.settings.config

    @property
    def pair(self) -> Pair:
        """The loaded pair, both models whole."""
        pair: Pair = self.lm.pair
        return pair

    def identity(self) -> dict[str, Any]:
        """Return what every measurement on this source depends on."""
        summary = self.settings.resolved()
        for arms_own in ("config", "config_hash"):
            summary.pop(arms_own)
        for where in ("policy", "base"):  # the weights' own hashes stand beside
            summary.pop(where)
        return {
            "task": self.name,
            "task_hash": self.questions.digest(),
            "model_class": type(self.lm).__name__,
            **summary,
            "policy_revision": self.pair.policy_revision,
            "base_revision": self.pair.base_revision,
            "processor_revision": self.lm.provenance["processor_revision"],
        }

    def answer(self, documents: Sequence[int], respond: Respond) -> list[str]:
        """Return one text per document; ``respond`` stands in for ``model.generate``.

        It is given the batch that the harness's class made, and returns prompts and answers as
        ``generate`` does; the class turns them into text.
        """
        requests = [self.questions.request(document) for document in documents]
        self._study.respond = respond
        try:
            with opened(self.session), quiet_bars():
                answers = self.lm.generate_until(requests)
        finally:
            self._study.respond = None
        return [getattr(answer, "text", answer) for answer in answers]

    def prompts(self, documents: Sequence[int]) -> list[Prompts]:
        """Return the batches that the harness makes for documents, without answering them."""
        seen: list[Prompts] = []

        def note(prompts: Prompts) -> Tensor:
            seen.append(prompts)
            return prompts.inputs["input_ids"]

        self.answer(documents, note)
        return seen

    def seed(self, document: int, repeat: int = 0, seed: int | None = None) -> int:
        """Return the seed of one answer, as the plugin draws it in a run of the harness."""
        first = self.config.seed if seed is None else seed
        return stable_seed(first, self.name, document, repeat)

    def documents(self, n: int | None, offset: int = 0) -> list[int]:
        """Return the first ``n`` documents behind ``offset``; all where None."""
        return self.questions.documents(n, offset)

    def score(self, document: int, text: str, metric: str | None = None) -> float:
        """Return the task's own score of a text."""
        return self.questions.score(document, text, metric)

    def question(self, document: int) -> Question:
        """Return what a document asks."""
        return self.questions.question(document)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of an answer, with the one that ends it."""
        tokenizer = self.lm.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return [*ids, tokenizer.eos_token_id]

    def decode(self, tokens: Sequence[int]) -> list[str]:
        """Return each token id as text."""
        return [self.lm.tokenizer.decode([token]) for token in tokens]


class _Study:
    """Stands in for the model's answerer: a study responds to the batches that the class makes."""

    respond: Respond | None = None

    def answer(
        self, session: Session, rows: Sequence[Row], inputs: Inputs, generation: Any, **_: Any
    ) -> Tensor:
        if self.respond is None:
            raise RuntimeError("the model was asked to answer outside of a study")
        return self.respond(Prompts(inputs, generation, tuple(row.document for row in rows)))

    def forget(self) -> None:
        """Let go of nothing."""


def _class_of(model: str) -> Any:
    from lmms_eval import models

    return models.get_model(model)


# What decides how many of the base's layers are loaded: each arm has its own value in the end, and
# the method is the arms' own.
_WHOLE = {"replay_boundary": "aligned", "replay_thresholds": "dynamic", "replay_method": "replay"}
