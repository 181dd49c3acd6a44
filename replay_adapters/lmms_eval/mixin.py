"""What turns one of lmms-eval's own model classes into a replaying one."""

import difflib
import inspect
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from accelerate import PartialState
from accelerate.utils import gather_object, set_seed
from loguru import logger
from transformers import PretrainedConfig

from replay_adapters.book import RecordBook, report, totals
from replay_adapters.lmms_eval import patches
from replay_adapters.lmms_eval.watch import Answering, Key, WatchedTasks
from replay_adapters.options import Settings, check_checkpoints, resolve
from replay_adapters.protocol import edited_request
from replay_core import Pair, ReplayRecord, Steered, UsageError, load_pair, make_pair
from replay_core.adapter import adapted_base
from replay_core.pair import load_model
from replay_core.record import answer_fields, library_versions
from replay_core.seeds import stable_seed
from replay_core.steered import split_arguments


class ReplayMixin:
    """Stands in front of an lmms-eval class, whose code then runs unchanged.

    The class's model is the pair's policy; its ``generate`` optimises the visual tokens first.
    Takes the class's own arguments, ``pair``, ``dtype`` and the ``replay_…`` options.
    """

    parent_name: ClassVar[str]
    model_type: ClassVar[str]
    default_dtype: ClassVar[str] = "auto"
    is_simple: bool
    task_dict: Any
    command_line_generation: frozenset[str] = frozenset()

    def __init__(self, **arguments: Any) -> None:
        self.settings = resolve(arguments)
        config = check_checkpoints(self.settings)
        if config.model_type != self.model_type:
            raise UsageError(
                f"{self.settings.pair.policy} is a {config.model_type} checkpoint, which this "
                f"--model name does not take (allowed: {self.model_type})"
            )
        rest = dict(self.settings.rest)
        self._refuse_unknown(rest)
        device = str(rest.pop("device", None) or PartialState().device)
        device_map = rest.pop("device_map", None) or device
        loading = {"device_map": device_map, "dtype": self.settings.dtype or self.default_dtype}
        flash = "flash_attention_2" if rest.get("use_flash_attention_2") else None
        loading["attn_implementation"] = rest.pop("attn_implementation", flash)
        self.pair: Any = _load(self.settings, config, loading)
        self.steered: Any = Steered(self.pair, self.settings.config)
        self.book = RecordBook()
        self.identity = {
            "policy_revision": self.pair.policy_revision,
            "base_revision": self.pair.base_revision,
            "versions": library_versions(),
        }
        self._batch: list[Key] = []
        with patches.already_loaded(self.pair.policy.model):
            source = self.settings.pair.processor or self.settings.pair.policy
            super().__init__(pretrained=source, device=device, device_map=device_map, **rest)  # type: ignore[call-arg]
        self._answering: Any = Answering(self.pair.policy.model, self._generate)
        if self.settings.protocol.system_prompt is not None:
            self.system_prompt = self.settings.protocol.system_prompt
        patches.install(self)
        logger.info(f"replay: {self.settings.summary()}")

    def _refuse_unknown(self, arguments: Collection[str]) -> None:
        """Name a model argument that lmms-eval's class does not have, before it asserts so."""
        known = [*inspect.signature(super().__init__).parameters, "attn_implementation"]
        for name in arguments:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise UsageError(
                    f"{name} is not a model argument of {self.parent_name}; {hint}"
                    f"Arguments: {', '.join(sorted(set(known) - {'kwargs'}))}"
                )

    @property
    def model(self) -> Any:
        """The model as the harness sees it: the policy, with a replaying ``generate``."""
        return getattr(self, "_answering", None) or super().model  # type: ignore[misc]

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Answer in the harness's own batches and order, and keep every answer's record."""
        self.settings.check_tasks({request.task_name for request in requests})
        edited = [
            edited_request(
                request,
                self.settings.protocol,
                chat=not self.is_simple,
                command_line=self.command_line_generation,
            )
            for request in requests
        ]
        clones = Counter(_key(request) for request in requests if _evens_out_ranks(request))
        asked = Counter(_key(request) for request in requests) - clones
        with self._watching(asked):
            return super().generate_until(edited)  # type: ignore[misc]

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        """Answer a task's rounds, each with a record, in the prompt that the task gives it."""
        self.settings.check_tasks({request.task_name for request in requests})
        with self._watching(None):
            return super().generate_until_multi_round(requests)  # type: ignore[misc]

    @contextmanager
    def _watching(self, asked: Counter[Key] | None) -> Iterator[None]:
        """Note which document each row of a batch belongs to, as the class looks them up.

        ``asked`` is how many answers of each document get a record; None for all.
        """
        self._repeats: Counter[Key] = Counter()
        self._asked = asked
        tasks = self.task_dict
        self.task_dict = WatchedTasks(tasks, self._batch)
        try:
            yield
        finally:
            self.task_dict = tasks
            self._batch.clear()

    def _generate(self, **arguments: Any) -> Any:
        """Stand in for ``model.generate`` on the batch whose documents were just looked up."""
        prompt = arguments["input_ids"]
        keys = self._batch[-len(prompt) :]  # a task's last round looks its document up for nothing
        self._batch.clear()
        if len(keys) != len(prompt):
            raise RuntimeError(f"{len(prompt)} prompts came with {len(keys)} documents: {keys}")
        repeats = []
        for key in keys:
            repeats.append(self._repeats[key])
            self._repeats[key] += 1
        seed = self.settings.config.seed
        seeds = [stable_seed(seed, *key, n) for key, n in zip(keys, repeats, strict=True)]
        inputs, generation = split_arguments(self.pair.policy, arguments)
        result = self.steered.optimise(inputs, seeds=seeds)
        if generation.get("do_sample"):
            set_seed(stable_seed(*seeds))
        started = time.perf_counter()
        if self.settings.config.method in ("replay", "inject"):
            output = self.steered.decode(inputs, result, **generation)
        else:
            output = self.steered.generate(**arguments)
        seconds = time.perf_counter() - started
        new = output[:, prompt.shape[1] :]
        answers = answer_fields(new, {generation["eos_token_id"]}, generation["max_new_tokens"])
        fields = [{**answer, "seed": s} for answer, s in zip(answers, seeds, strict=True)]
        records = self.steered.records(result, decode_seconds=seconds, answers=fields)
        for key, repeat, record in zip(keys, repeats, records, strict=True):
            if self._asked is None or repeat < self._asked[key]:
                self.book.add(*key, record)
        return output

    def summary(self) -> dict[str, Any]:
        """Return settings and totals of the whole run, over all processes, and log them."""
        records: list[ReplayRecord] = self.book.all()
        if PartialState().num_processes > 1:
            records = gather_object(records)
        total = totals(records)
        if PartialState().is_main_process:
            report(total)
        return {**self.settings.summary(), **self.identity, "totals": total}

    def fingerprint(self) -> str:
        """Return 16 digits that change with settings, weights, class or versions."""
        return self.settings.fingerprint(type(self).__name__, str(self.identity))

    def clean(self) -> None:
        """Let go of both models, which the harness wants gone before it scores."""
        self._answering = self.steered = self.pair = None
        super().clean()  # type: ignore[misc]


def _key(request: Any) -> Key:
    return request.task_name, request.doc_id


def _evens_out_ranks(request: Any) -> bool:
    """Return whether the harness added a request only to give all processes equally many."""
    return bool(request.metadata.get("__padding_only__"))


def _load(settings: Settings, config: PretrainedConfig, loading: dict[str, Any]) -> Pair:
    """Load what the method needs: one model for ``none`` and ``base``, else both."""
    files, method = settings.pair, settings.config.method
    adapted = adapted_base(files.policy) is not None
    if method in ("replay", "inject") or (adapted and method == "none"):
        layers = settings.config.layer_indices(config.get_text_config().num_hidden_layers)
        return load_pair(
            files.policy,
            files.base,
            base_layers=max(layers) + 1,
            base_device_map=settings.base_device,
            base_quantization=settings.base_quantization,
            name=files.name,
            **loading,
        )
    alone = load_model(files.base if method == "base" else files.policy, **loading)
    return make_pair(alone, alone, name=files.name)
