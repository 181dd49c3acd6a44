"""What turns one of lmms-eval's own model classes into a replaying one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from accelerate import PartialState
from loguru import logger
from torch import Tensor

from replay_adapters.lmms_eval import patches, processes
from replay_adapters.lmms_eval.answering import Answerer
from replay_adapters.lmms_eval.arguments import (
    check_architecture,
    check_known,
    check_system_prompt,
    tell_unread,
)
from replay_adapters.lmms_eval.batches import Rows, WatchedTasks, in_groups
from replay_adapters.lmms_eval.escaping import brought_back, escaping
from replay_adapters.lmms_eval.finals import Finals
from replay_adapters.lmms_eval.journal import BatchJournal
from replay_adapters.lmms_eval.rounds import converse, one_by_one
from replay_adapters.lmms_eval.turns import answers_of
from replay_adapters.lmms_eval.unreadable import guarded
from replay_adapters.session import standin
from replay_adapters.session.decoders import decoder_of
from replay_adapters.session.session import Replaying, Session, current, joined
from replay_adapters.settings.processors import processor_of
from replay_adapters.settings.protocol import edited_request
from replay_core import Steered
from replay_core.model.inputs import split_arguments


class ReplayMixin(Replaying):
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
    batch_size: Any

    def __init__(self, **arguments: Any) -> None:
        session = current() or Session()
        self.settings = session.resolved.settings(arguments)
        config = session.resolved.checkpoint(self.settings)
        check_architecture(self.settings, config.model_type, self.model_types)
        rest = dict(self.settings.rest)
        if self.settings.protocol.max_num_frames is not None and "max_num_frames" in rest:
            rest[self.frames_argument] = rest.pop("max_num_frames")
        check_known(self.parent_name, super().__init__, rest)
        device = processes.own_device(rest.pop("device", None))
        device_map = rest.pop("device_map", None) or device
        loading = {"device_map": device_map, "dtype": self.settings.dtype or self.default_dtype}
        flash = "flash_attention_2" if rest.get("use_flash_attention_2") else None
        loading["attn_implementation"] = rest.pop("attn_implementation", flash)
        self.pair: Any = standin.load_models_for(self.settings, config, loading)
        self.provenance = standin.provenance_of(self.pair, self.settings)
        path, rank = self.settings.journal, PartialState().process_index
        journal = BatchJournal(path, self.fingerprint(), rank) if path else None
        self.decoder: Any = decoder_of(self.settings, self.pair)
        steered = Steered(self.pair, self.settings.config, self.decoder)
        self.answerer: Any = Answerer(steered, journal, reuse=self.settings.turns == "reuse")
        policy, source = self.pair.policy.model, processor_of(self.settings).source
        alone = processes.constructors_without_cuda(type(self))
        with standin.constructor_takes(policy), alone:
            super().__init__(pretrained=source, device=device, device_map=device_map, **rest)
        self._replaying: Any = standin.WithGenerate(policy, escaping(self._generate))
        system_prompt = self.settings.protocol.system_prompt
        if system_prompt is not None and (self.is_simple or self.writes_system_prompt):
            check_system_prompt(self, self.settings)
            self.system_prompt = system_prompt
        patches.install()
        session.model = self
        logger.info(f"replay: {self.settings.summary()}")

    @property
    def model(self) -> Any:
        """The model as the harness sees it: the policy, with a replaying ``generate``."""
        return getattr(self, "_replaying", None) or super().model  # type: ignore[misc]

    def generate_until(self, requests: list[Any]) -> list[Any]:
        """Return the final answers, which the pair's protocol tells from the rest of the texts."""
        self.settings.check_tasks({request.task_name for request in requests}, loop=False)
        with joined(self) as session:
            finals = Finals(session, requests, self.settings.protocol.answer)
            return finals.of(self.answered([self._asked(session, one) for one in requests]))

    def answered(self, asked: list[Any]) -> list[Any]:
        """Answer in the harness's own batches and order, and keep every answer's record."""
        ask, decoder = super().generate_until, self.decoder  # type: ignore[misc]
        with joined(self) as session:
            apart = {"chat": not self.is_simple, "apart": decoder is not None}
            groups = in_groups(asked, int(self.batch_size), **apart)
            with self.watching(session, Rows(session.looked_up, asked), again=len(groups) > 1):
                return answers_of(session, decoder, ask, asked, groups)

    def _asked(self, session: Session, request: Any) -> Any:
        """Return a request as the pair's protocol wants it, whose inputs are checked."""
        how = {"chat": not self.is_simple, "writes_system_prompt": self.writes_system_prompt}
        how, typed = {**how, "documents": self.task_dict}, session.command_line
        edited = edited_request(request, self.settings.protocol, command_line=typed, **how)
        return guarded(session, edited, chat=not self.is_simple)

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        """Answer a task's rounds, each with a record, in the prompt that the task gives it."""
        if self.is_simple:
            return one_by_one(self, requests, super().generate_until_multi_round)  # type: ignore[misc]
        return converse(self, requests)

    @contextmanager
    def watching(self, session: Session, rows: Rows, *, again: bool) -> Iterator[None]:
        """Note which document each row of a batch belongs to, as the class looks them up."""
        self._rows, self._again, tasks = rows, again, self.task_dict
        self.task_dict = WatchedTasks(tasks, session.looked_up)
        try:
            with brought_back():
                yield
        finally:
            self.task_dict = tasks
            session.looked_up.clear()
            self.answerer.forget()

    def _generate(self, **arguments: Any) -> Tensor:
        """Stand in for ``model.generate`` on the batch whose documents were just looked up."""
        inputs, generation = split_arguments(self.pair.policy, arguments)
        rows = self._rows.take(len(inputs["input_ids"]))
        with joined(self) as session:
            tell_unread(self.parent_name, session.command_line, generation, simple=self.is_simple)
            return self.answerer.answer(session, rows, inputs, generation, again=self._again)

    def fingerprint(self) -> str:
        """Return 16 digits that change with settings, weights, class or versions."""
        known = [value for name, value in self.provenance.items() if name.endswith("_revision")]
        versions = str(self.provenance["versions"])
        return self.settings.fingerprint(type(self).__name__, versions, revisions=known)

    def clean(self) -> None:
        """Let go of all models, which the harness wants gone before it scores."""
        self._replaying = self.answerer = self.pair = self.decoder = None
        super().clean()  # type: ignore[misc]
