"""What turns one of lmms-eval's own model classes into a replaying one."""

import difflib
import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

from accelerate import PartialState
from accelerate.utils import gather_object
from loguru import logger

from replay_adapters.lmms_eval import patches
from replay_adapters.lmms_eval.arguments import tell_unread
from replay_adapters.lmms_eval.batches import Key, WatchedTasks, brought_back, escaping
from replay_adapters.lmms_eval.journal import Journal
from replay_adapters.lmms_eval.reading import check_for_class
from replay_adapters.lmms_eval.repeats import in_groups, key_of
from replay_adapters.lmms_eval.unreadable import Unreadable, taken_back
from replay_adapters.session.records import RecordBook, report, totals
from replay_adapters.session.standin import Answering, already_loaded, identity_of, load_for_method
from replay_adapters.settings.options import check_checkpoints, resolve
from replay_adapters.settings.processors import processor_of
from replay_adapters.settings.protocol import edited_request
from replay_core import Outcome, ReplayRecord, Steered, UsageError
from replay_core.answer import Recent, answer
from replay_core.model.inputs import split_arguments
from replay_core.outcome import SampleReplay
from replay_core.record import make_record
from replay_core.seeds import stable_seed


class ReplayMixin:
    """Stands in front of an lmms-eval class, whose code then runs unchanged.

    The class's model is the pair's policy; its ``generate`` optimises the visual tokens first.
    Takes the class's own arguments, ``pair``, ``dtype`` and the ``replay_…`` options.
    """

    parent_name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    default_dtype: ClassVar[str] = "auto"
    # What the class calls the number of frames, and whether it writes its own system message.
    frames_argument: ClassVar[str] = "max_num_frames"
    writes_system_prompt: ClassVar[bool] = False
    is_simple: bool
    task_dict: Any
    command_line_generation: Mapping[str, Any] = MappingProxyType({})
    _repeated: bool = False

    def __init__(self, **arguments: Any) -> None:
        self.settings = resolve(arguments)
        config = check_checkpoints(self.settings)
        if config.model_type not in self.model_types:
            raise UsageError(
                f"{self.settings.pair.policy} is a {config.model_type} checkpoint, which this "
                f"--model name does not take (allowed: {', '.join(self.model_types)})"
            )
        rest = dict(self.settings.rest)
        if self.settings.protocol.max_num_frames is not None and "max_num_frames" in rest:
            rest[self.frames_argument] = rest.pop("max_num_frames")
        self._refuse_unknown(rest)
        device = str(rest.pop("device", None) or PartialState().device)
        device_map = rest.pop("device_map", None) or device
        loading = {"device_map": device_map, "dtype": self.settings.dtype or self.default_dtype}
        flash = "flash_attention_2" if rest.get("use_flash_attention_2") else None
        loading["attn_implementation"] = rest.pop("attn_implementation", flash)
        self.pair: Any = load_for_method(self.settings, config, loading)
        self.steered: Any = Steered(self.pair, self.settings.config)
        self.recent = Recent(self.steered)
        self.book = RecordBook()
        self.identity = identity_of(self.pair, self.settings)
        path = self.settings.journal
        rank = PartialState().process_index
        self.journal = Journal(path, self.fingerprint(), rank) if path else None
        self._batch: list[Key] = []
        self.unreadable = Unreadable(
            self._batch, partial(check_for_class, self), strict=self.settings.config.strict
        )
        with already_loaded(self.pair.policy.model):
            source = processor_of(self.settings).source
            super().__init__(pretrained=source, device=device, device_map=device_map, **rest)  # type: ignore[call-arg]
        self._answering: Any = Answering(self.pair.policy.model, escaping(self._generate))
        self._take_system_prompt()
        patches.install(self)
        logger.info(f"replay: {self.settings.summary()}")

    def _take_system_prompt(self) -> None:
        """Give the protocol's system prompt to a class that writes it into the prompt itself."""
        prompt = self.settings.protocol.system_prompt
        if prompt is None or not (self.is_simple or self.writes_system_prompt):
            return
        if not hasattr(self, "system_prompt"):
            raise UsageError(
                f"the pair {self.settings.pair.name} has a system prompt, for which lmms-eval's "
                f"simple class of {self.parent_name} has no place; take its chat class (without "
                "--force_simple), or replay_protocol=task"
            )
        self.system_prompt = prompt

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
                writes_system_prompt=self.writes_system_prompt,
            )
            for request in requests
        ]
        clones = Counter(key_of(request) for request in requests if _evens_out_ranks(request))
        asked = Counter(key_of(request) for request in requests) - clones
        answers: list[Any] = [None] * len(requests)
        groups = in_groups(edited, int(self.batch_size), chat=not self.is_simple)
        self._repeated = len(groups) > 1
        guarded = [self.unreadable.guarded(one, chat=not self.is_simple) for one in edited]
        with self._watching(asked):
            for group in groups:
                given = super().generate_until([guarded[index] for index in group])  # type: ignore[misc]
                for index, answer in zip(group, given, strict=True):
                    answers[index] = answer
        return answers

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        """Answer a task's rounds, each with a record, in the prompt that the task gives it."""
        self.settings.check_tasks({request.task_name for request in requests})
        guarded = [self.unreadable.guarded(copy(one), chat=not self.is_simple) for one in requests]
        with self._watching(None):
            return super().generate_until_multi_round(guarded)  # type: ignore[misc]

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
            with brought_back():
                yield
        finally:
            self.task_dict = tasks
            self._batch.clear()
            self.recent.forget()

    def _take_batch(self, size: int) -> list[Key]:
        """Return the documents of the ``size`` prompts that are answered now.

        A class may look up the next batch's documents meanwhile (simple qwen3_vl does, in a
        thread); a multi-round task's last round looks its document up for nothing.
        """
        if self._asked is None:
            keys = self._batch[-size:]
            self._batch.clear()
        else:
            keys = self._batch[:size]
            del self._batch[:size]
        if len(keys) != size:
            raise RuntimeError(f"{size} prompts came with {len(keys)} documents: {keys}")
        return keys

    def _generate(self, **arguments: Any) -> Any:
        """Stand in for ``model.generate`` on the batch whose documents were just looked up."""
        prompt = arguments["input_ids"]
        keys = self._take_batch(len(prompt))
        repeats = []
        for key in keys:
            repeats.append(self._repeats[key])
            self._repeats[key] += 1
        seed = self.settings.config.seed
        seeds = [stable_seed(seed, *key, n) for key, n in zip(keys, repeats, strict=True)]
        inputs, generation = split_arguments(self.pair.policy, arguments)
        given = self.command_line_generation
        tell_unread(self.parent_name, given, generation, simple=self.is_simple)
        kept = self.journal.key(inputs, generation, seeds) if self.journal else ""
        found = self.journal.find(kept, prompt) if self.journal else None
        unread = self._unread(keys, seeds)
        if None not in unread:
            found = prompt, []
        if found is None:
            # x is the document's, whichever of its answers this is.
            own = [stable_seed(seed, *key, 0) for key in keys]
            optimise = self.recent.optimise if self._repeated else self.steered.optimise
            result = optimise(inputs, seeds=own)
            made = answer(self.steered, inputs, generation, seeds=seeds, result=result)
            if self.journal:
                self.journal.keep(kept, made.new, made.records)
            found = made.ids, list(made.records)
        output, records = taken_back(*found, prompt, unread, generation["eos_token_id"])
        for key, repeat, record in zip(keys, repeats, records, strict=True):
            if self._asked is None or repeat < self._asked[key]:
                self.book.add(*key, record)
        return output

    def _unread(self, keys: list[Key], seeds: list[int]) -> list[ReplayRecord | None]:
        """Return, for each row of a batch, the record of an input that cannot be read, or None."""
        sample, config = SampleReplay(Outcome.UNREADABLE_INPUT), self.settings.config
        return [
            why and make_record(self.pair, config, sample, error=why, seed=seed)
            for why, seed in zip(self.unreadable.of(keys), seeds, strict=True)
        ]

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
        self._answering = self.steered = self.recent = self.pair = None
        super().clean()  # type: ignore[misc]


def _evens_out_ranks(request: Any) -> bool:
    """Return whether the harness added a request only to give all processes equally many."""
    return bool(request.metadata.get("__padding_only__"))
