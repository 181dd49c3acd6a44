"""The replaying model classes: VLMEvalKit's own, with :class:`ReplayMixin` in front."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from loguru import logger
from transformers import BatchFeature
from transformers.utils import is_flash_attn_2_available
from vlmeval.vlm import Qwen2VLChat, Qwen3VLChat

from replay_adapters.media import UnreadableInput
from replay_adapters.session.decoders import decoder_of
from replay_adapters.session.overlap import overlapped
from replay_adapters.session.standin import WithGenerate, constructor_takes, load_models_for
from replay_adapters.settings.answers import AnswerFormat, final_answer
from replay_adapters.settings.benchmarks import form_taken
from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.processors import processor_of
from replay_adapters.settings.protocol import edit_last_text
from replay_adapters.vlmevalkit.agent import converse, converses, first_prompt
from replay_adapters.vlmevalkit.answering import Answering
from replay_adapters.vlmevalkit.inputs import Reading, UnreadPrompt, built, check_present
from replay_adapters.vlmevalkit.journal import keep, note_sample, noted_sample, shown
from replay_adapters.vlmevalkit.patches import gpu_memory_known, own_device
from replay_adapters.vlmevalkit.planned import Planned, plan
from replay_core import Outcome, ReplayRecord, Steered
from replay_core.answer import Recent
from replay_core.enduring import Enduring
from replay_core.model.inputs import split_arguments
from replay_core.model.vision import Inputs
from replay_core.outcome import SampleReplay
from replay_core.record import make_record
from replay_core.result import ReplayResult
from replay_core.seeds import stable_seed


class ReplayMixin:
    """Stands in front of a class of the harness, whose code then runs unchanged.

    The class's model is the pair's policy; its ``generate`` optimises the visual tokens first.
    Takes the class's own arguments, ``pair`` or ``model_path``, ``dtype``, ``device``,
    ``attn_implementation``, ``samples`` and the ``replay_…`` options.
    """

    processor: Any
    fps: Any
    nframe: Any
    generate_kwargs: Any

    def __init__(
        self, model_path: str | None = None, *, planned: Planned | None = None, **arguments: Any
    ) -> None:
        """Build the model from its arguments, or from what they were ``planned`` to be."""
        given = {"model_path": model_path, **arguments}
        self.plan = planned or plan(given, type(self).__name__)
        self.settings = self.plan.settings
        config = check_checkpoints(self.settings)
        device = self.plan.device or own_device()
        dtype = self.settings.dtype or "auto"
        loading = {
            "device_map": device,
            "dtype": dtype,
            "attn_implementation": self.plan.attn_implementation
            or _attention(device, config.dtype if dtype == "auto" else dtype),
        }
        self.pair: Any = load_models_for(self.settings, config, loading)
        policy = self.pair.policy.model
        self.decoder: Any = decoder_of(self.settings, self.pair)
        self.steered: Any = Steered(self.pair, self.settings.config, self.decoder)
        source = processor_of(self.settings).source
        with constructor_takes(policy), gpu_memory_known(type(self)):
            super().__init__(model_path=source, **self.plan.harness)  # type: ignore[call-arg]
        self.reading = Reading()
        self.processor = _OnDevice(self.processor, policy.device, self.reading)
        self.model = WithGenerate(policy, self._generate)
        self.model_path = ""  # "omni" in a folder's name would take upstream's branch of Qwen-Omni
        self.frame_sampling = (self.fps, self.nframe)
        self.answering = Answering(self.steered)
        self.enduring = Enduring(self.steered)
        logger.info(f"replay: {self.settings.summary()}")

    @property
    def item(self) -> tuple[Any, ...]:
        """Set, row, repeat and turn of what is being answered."""
        return self.answering.item

    def build_prompt(self, line: Any, dataset: Any, **more: Any) -> Any:
        """Build the harness's custom prompt, noting which sample it is for."""
        note_sample(line)
        if converses(self.settings, dataset):
            return built(first_prompt, line, self, line, dataset)
        build = super().build_prompt  # type: ignore[misc]
        return built(build, line, line, dataset, **more)

    def use_custom_prompt(self, dataset: str) -> bool:
        """Return whether the model asks a set's rows in another prompt than the set's."""
        if converses(self.settings, dataset):
            return True
        return bool(super().use_custom_prompt(dataset))  # type: ignore[misc]

    def generate(self, message: Any, dataset: str | None = None) -> str:
        """Return the answer to a prompt; an empty one where its picture or clip is unreadable.

        Raises:
            UnreadableInput: with ``replay_strict``, for such a prompt.
        """
        try:
            if isinstance(message, UnreadPrompt):
                raise message.fault
            if isinstance(message, list):
                check_present([part for part in message if isinstance(part, dict)])
            with self.reading.scope():
                return super().generate(message, dataset)  # type: ignore[misc]
        except UnreadableInput as fault:
            if self.settings.config.strict:
                raise
            return self._unread(fault)

    def _unread(self, fault: UnreadableInput) -> str:
        """Keep an empty answer and its record, for every repeat."""
        logger.warning(f"replay: unreadable input: {fault}")
        sample = SampleReplay(Outcome.UNREADABLE_INPUT)
        record = make_record(self.pair, self.settings.config, sample, error=str(fault))
        count = self.plan.samples
        keep([""] * count, [record.model_dump(mode="json")] * count)
        return shown("")

    def generate_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        """Return the answer to a prompt, or the first of its ``samples``; keep all with records."""
        if converses(self.settings, dataset):
            return converse(self, message, dataset)
        message = list(message)
        edit_last_text(message, self.settings.protocol, "value")
        index, ask, recent = noted_sample(), super().generate_inner, Recent(self.steered)  # type: ignore[misc]

        def answered(repeat: int) -> tuple[str, ReplayRecord]:
            now = self.answering
            now.item, now.records, now.recent = (dataset, index, repeat, None), [], recent
            text = ask(copy.deepcopy(message), dataset=dataset)
            (record,) = now.records
            return text, record

        jobs = [partial(answered, repeat) for repeat in range(self.plan.samples)]
        try:
            made = overlapped(self.decoder, jobs)
        finally:
            recent.forget()  # nothing outlives a sample
        if marks := self.settings.protocol.answer:
            made = [self._final(marks, dataset, *one) for one in made]
        answers = [text for text, _ in made]
        keep(answers, [record.model_dump(mode="json") for _, record in made])
        return shown(answers[0])

    def _final(
        self, marks: AnswerFormat, dataset: str | None, text: str, record: ReplayRecord
    ) -> tuple[str, ReplayRecord]:
        """Return the final answer in a text, and the record with both in it."""
        answer = final_answer(text, marks, form_taken(dataset), cut=bool(record.truncated))
        return answer, record.model_copy(update={"response": text, "answer": answer})

    def text_of(self, messages: list[dict[str, Any]]) -> tuple[str, ReplayRecord]:
        """Return what the model writes to chat messages, as the harness asks it, and the record."""
        from qwen_vl_utils import process_vision_info

        text = self.processor.apply_chat_template(
            [messages], tokenize=False, add_generation_prompt=True
        )
        images, videos = process_vision_info([messages])
        inputs = self.processor(
            text=text, images=images, videos=videos, padding=True, return_tensors="pt"
        ).to("cuda")
        self.answering.records = []
        ids = self.model.generate(**inputs, **self.generate_kwargs)
        (record,) = self.answering.records
        new = ids[:, inputs.input_ids.shape[1] :]
        (said,) = self.processor.tokenizer.batch_decode(
            new, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return said, record

    def _generate(self, **arguments: Any) -> Any:
        """Stand in for ``model.generate`` on the current sample, repeat and turn."""
        inputs, generation = split_arguments(self.pair.policy, arguments)
        now = self.answering
        generation = {**self._decoding(generation), **now.stopping}
        dataset, index, repeat, turn = now.item
        later = (turn,) if turn else ()
        # Outside a run of the harness, a sample is known by its prompt.
        key = (dataset, self.steered.seeds(inputs)[0] if index is None else index)
        item_seed, seed = (
            stable_seed(self.settings.config.seed, *key, n, *later) for n in (0, repeat)
        )

        def steer(part: Inputs, _: Sequence[int]) -> ReplayResult:
            if now.kept is not None:
                result = self.steered.optimise(part, seeds=[item_seed], kept=[now.kept])
            else:
                optimise = now.recent.optimise if self.plan.samples > 1 else self.steered.optimise
                result = optimise(part, seeds=[item_seed])
            if turn is not None and self.settings.turns == "reuse":
                now.kept = result.of(0)
            return result

        made = self.enduring.answer(inputs, generation, seeds=[seed], optimise=steer)
        now.records += made.records
        return made.ids

    def _decoding(self, generation: dict[str, Any]) -> dict[str, Any]:
        """Return the harness's generation settings; plain argmax where a greedy run was asked."""
        argmax = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {**generation, **argmax} if self.plan.greedy else generation


class Qwen2VLChatReplay(ReplayMixin, Qwen2VLChat):
    """Qwen2-VL and Qwen2.5-VL through the harness's Qwen2VLChat."""


class Qwen3VLChatReplay(ReplayMixin, Qwen3VLChat):
    """Qwen3-VL through the harness's Qwen3VLChat."""


class _OnDevice:
    """A processor whose batches go to the model's device when upstream sends them to "cuda"."""

    def __init__(self, processor: Any, device: torch.device, reading: Reading) -> None:
        self._processor, self._device, self._reading = processor, device, reading

    def __call__(self, *arguments: Any, **options: Any) -> "_Placed":
        batch = self._reading.process(self._processor, *arguments, **options)
        return _Placed(dict(batch), self._device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


class _Placed(BatchFeature):
    def __init__(self, batch: dict[str, Any], home: torch.device) -> None:
        super().__init__(batch)
        self._home = home

    def to(self, *arguments: Any, **options: Any) -> "_Placed":
        """Move or cast as asked, "cuda" being the model's own device."""
        where = [self._home if given == "cuda" else given for given in arguments]
        super().to(*where, **options)
        return self


def _attention(device: Any, dtype: Any) -> str:
    """Return flash attention where it can run, else PyTorch's own."""
    half = str(dtype).removeprefix("torch.") in ("bfloat16", "float16")
    on_gpu = str(device) != "cpu" and torch.cuda.is_available()
    return "flash_attention_2" if half and on_gpu and is_flash_attn_2_available() else "sdpa"
