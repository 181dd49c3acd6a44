"""Prompts and scores of an lmms-eval task, through the harness's own dataloader and model class."""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from replay_adapters.lmms_eval import MODEL_NAMES
from replay_adapters.lmms_eval.watch import Answering
from replay_adapters.options import Settings, check_checkpoints, resolve
from replay_core import Pair, UsageError
from replay_core.anatomy import MODALITIES, PIXELS
from replay_core.seeds import stable_seed
from replay_core.steered import split_arguments

MODEL = "qwen2_vl_replay"
# What lmms-eval's command line strips from an answer before it is scored.
REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'

Respond = Callable[["Prompts"], torch.Tensor]


@dataclass(frozen=True)
class Prompts:
    """One batch as the harness gave it to ``model.generate``.

    ``inputs`` are the processor's tensors, ``generation`` the other arguments, ``documents`` the
    document of each row.
    """

    inputs: dict[str, torch.Tensor]
    generation: dict[str, Any]
    documents: tuple[int, ...]

    def digests(self, placeholders: Sequence[int]) -> list[str]:
        """Return 16 hexadecimal digits per row, of its tokens and pixels, whatever its padding.

        ``placeholders`` are the model's ids of visual tokens. Where pixels stand in proportion to
        them (Qwen's flat patches), or one block per row, each row has its own; else the batch's.
        """
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"].bool()
        visual = [int(torch.isin(row, row.new_tensor(placeholders)).sum()) for row in ids]
        starts = [sum(visual[:i]) for i in range(len(visual) + 1)]
        states = [hashlib.sha256(str(row[kept].tolist()).encode()) for row, kept in zip(ids, mask)]
        for name in PIXELS:
            if name not in self.inputs:
                continue
            pixels = self.inputs[name].detach().cpu().contiguous()
            per_token, left = divmod(len(pixels), max(starts[-1], 1))
            for row, state in enumerate(states):
                if left == 0:
                    mine = pixels[starts[row] * per_token : starts[row + 1] * per_token]
                else:
                    mine = pixels[row] if len(pixels) == len(ids) else pixels
                state.update(mine.contiguous().view(torch.uint8).numpy().tobytes())
        return [state.hexdigest()[:16] for state in states]


class Source:
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
    ) -> None:
        if model not in MODEL_NAMES:
            raise UsageError(f"--model {model} is not allowed (allowed: {', '.join(MODEL_NAMES)})")
        self.name, self.batch_size = task, batch_size
        self.settings = _settings(arguments)
        self.settings.check_tasks([task])
        self.lm = _build(model, arguments, self.settings, batch_size, device)
        self.task = _task(task, model, include_path, simple=self.lm.is_simple)
        self.lm.task_dict[task] = self.task.dataset
        self._respond: Respond | None = None
        self.lm._answering = Answering(self.lm.pair.policy.model, self._generate)
        self._requests: dict[int, list[Any]] = {}

    @property
    def pair(self) -> Pair:
        """The loaded pair, both models whole."""
        pair: Pair = self.lm.pair
        return pair

    def identity(self) -> dict[str, Any]:
        """Return what every measurement on this source depends on."""
        dump = json.dumps(self.task.dump_config(), sort_keys=True, default=_shape)
        summary = self.settings.summary()
        for arms_own in ("config", "config_hash"):
            summary.pop(arms_own)
        for where in ("policy", "base"):  # the weights' own hashes stand beside
            summary.pop(where)
        return {
            "task": self.name,
            "task_hash": hashlib.sha256(dump.encode()).hexdigest()[:12],
            "model_class": type(self.lm).__name__,
            **summary,
            "policy_revision": self.pair.policy_revision,
            "base_revision": self.pair.base_revision,
        }

    def digests(self, prompts: Prompts) -> list[str]:
        """Return what identifies each row of a batch: equal for byte-identical prompts."""
        config = self.pair.policy.model.config
        tokens = [getattr(config, f"{modality}_token_id", None) for modality in MODALITIES]
        return prompts.digests([token for token in tokens if token is not None])

    def documents(self, n: int | None, offset: int = 0) -> list[int]:
        """Return the first ``n`` documents behind ``offset``; all where None.

        Raises:
            UsageError: there are none.
        """
        with quiet_bars():
            self.task.build_all_requests(limit=n, offset=offset)
        found = [request for request in self.task.instances if request.doc_id not in self._requests]
        for request in found:
            if request.idx == 0:
                self._requests[request.doc_id] = [request]
        documents = sorted({request.doc_id for request in self.task.instances})
        if not documents:
            raise UsageError(f"task {self.name} has no documents behind number {offset}")
        return documents

    def chunks(self, documents: Sequence[int]) -> Iterator[list[int]]:
        """Yield documents in groups of ``batch_size``."""
        for start in range(0, len(documents), self.batch_size):
            yield list(documents[start : start + self.batch_size])

    def answer(self, documents: Sequence[int], respond: Respond) -> list[str]:
        """Return one text per document; ``respond`` stands in for ``model.generate``.

        It is given the batch that the harness's class made, and returns prompts and answers as
        ``generate`` does; the class turns them into text.
        """
        self._respond = respond
        requests = [self._requests[document][0] for document in documents]
        try:
            with quiet_bars():
                answers = self.lm.generate_until(requests)
        finally:
            self._respond = None
        return [getattr(answer, "text", answer) for answer in answers]

    def prompts(self, documents: Sequence[int]) -> list[Prompts]:
        """Return the batches that the harness makes for documents, without answering them."""
        seen: list[Prompts] = []

        def note(prompts: Prompts) -> torch.Tensor:
            seen.append(prompts)
            return prompts.inputs["input_ids"]

        self.answer(documents, note)
        return seen

    def _generate(self, **arguments: Any) -> torch.Tensor:
        rows = len(arguments["input_ids"])
        keys = self.lm._batch[-rows:]
        self.lm._batch.clear()
        if len(keys) != rows or self._respond is None:
            raise RuntimeError(f"{rows} prompts came with {len(keys)} documents: {keys}")
        inputs, generation = split_arguments(self.pair.policy, arguments)
        return self._respond(Prompts(inputs, generation, tuple(document for _, document in keys)))

    def seed(self, document: int, repeat: int = 0, seed: int | None = None) -> int:
        """Return the seed of one answer, as the plugin draws it in a run of the harness."""
        first = self.settings.config.seed if seed is None else seed
        return stable_seed(first, self.name, document, repeat)

    def score(self, document: int, text: str, metric: str | None = None) -> float:
        """Return the task's own score of a text, through its filters and ``process_results``.

        ``metric`` is the first of the task's list where None.

        Raises:
            UsageError: the task gives no number under that name.
        """
        from lmms_eval import evaluator

        (request,) = self._requests[document]
        request.resps, request.filtered_resps = [text], {}
        for ensemble in self.task._filters:
            ensemble.apply([request], self.task.task_docs)
        tags = evaluator.parse_reasoning_tags_config(
            cli_value=REASONING_TAGS, task_value=getattr(self.task.config, "reasoning_tags", None)
        )
        processed = evaluator._process_document_results(
            (document, self.document(document), [request]),
            task=self.task,
            filter_key=next(iter(request.filtered_resps)),
            reasoning_tags=tags,
            log_samples=False,
        )
        return self._number(processed.metrics, metric)

    def _number(self, metrics: dict[str, Any], metric: str | None) -> float:
        name = metric or next(
            (entry["metric"] for entry in self.task.config.metric_list or ()), None
        )
        value = metrics.get(name) if name else None
        if isinstance(value, dict):
            key = getattr(self.task.config, "score_key", "score")
            value = value.get(key, value.get("acc", value.get("accuracy")))
        if not isinstance(value, bool | int | float):
            raise UsageError(
                f"metric {name!r} of task {self.name} is no number per document "
                f"(give --metric one of: {', '.join(metrics)})"
            )
        return float(value)

    def document(self, document: int) -> dict[str, Any]:
        """Return a document with its media."""
        split = self.task.config.test_split or self.task.config.validation_split
        found: dict[str, Any] = self.task.dataset[split][document]
        return found

    def target(self, document: int) -> str:
        """Return a document's right answer as text."""
        return str(self.task.doc_to_target(self.document(document)))

    def decode(self, tokens: Sequence[int]) -> list[str]:
        """Return each token id as text."""
        return [self.lm.tokenizer.decode([token]) for token in tokens]


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep the harness's own progress bars, one per batch here, off the terminal."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _settings(arguments: str) -> Settings:
    from lmms_eval.utils import simple_parse_args_string

    try:
        given = simple_parse_args_string(arguments)
    except ValueError as error:
        raise UsageError(
            f"--model_args {arguments} is not a list of name=value pairs with commas between"
        ) from error
    if given.get("replay_method") not in (None, "replay"):
        raise UsageError(
            f"replay_method={given['replay_method']} is not allowed here: a study sets the method "
            "of its arms itself"
        )
    settings = resolve(given)
    check_checkpoints(settings)
    return settings


def _build(
    model: str, arguments: str, settings: Settings, batch_size: int, device: str | None
) -> Any:
    from lmms_eval import models

    depth = check_checkpoints(settings).get_text_config().num_hidden_layers
    kept = re.sub(rf"({'|'.join(_WHOLE)})=(\[[^\]]*\]|[^,]*),?", "", arguments).strip(",")
    whole = [kept, f"replay_layers={depth}", "replay_boundary=aligned", "replay_thresholds=dynamic"]
    kind: Any = models.get_model(model)
    return kind.create_from_arg_string(
        ",".join(part for part in whole if part), {"batch_size": batch_size, "device": device}
    )


# What decides how many of the base's layers are loaded; each arm has its own value in the end.
_WHOLE = ("replay_layers", "replay_boundary", "replay_thresholds", "replay_method")


def _task(name: str, model: str, include_path: str | None, *, simple: bool) -> Any:
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_path, model_name=model)
    if name not in manager.all_tasks:
        raise UsageError(
            f"task {name} is not known (lmms_eval --tasks list shows all; your own ones need "
            "--include-path)"
        )
    found = get_task_dict([name], manager, "simple" if simple else "chat")
    task: Any = found.get(name)
    if task is None or isinstance(task, dict | tuple):
        members = ", ".join(map(str, found)) if task is None else ", ".join(map(str, task))
        raise UsageError(f"task {name} is a group; give one task of it: {members}")
    if task.OUTPUT_TYPE != "generate_until":
        raise UsageError(
            f"task {name} asks for {task.OUTPUT_TYPE}; the studies take generate_until tasks"
        )
    task.set_fewshot_seed(seed=1234)
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    return task


def _shape(value: Any) -> str:
    """Return what a function in a task's config is called, without its address."""
    return getattr(value, "__qualname__", type(value).__name__)
