"""Conversations with a pair's tool, inside the model: VLMEvalKit itself asks once."""

import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from PIL import Image

from replay_adapters.agents.asking import limits_of, without_instruction
from replay_adapters.agents.conversation import Conversation, Turn
from replay_adapters.media import reading
from replay_adapters.session.session import current
from replay_adapters.settings.answers import final_answer
from replay_adapters.settings.benchmarks import answers_calls, form_taken
from replay_adapters.settings.options import Settings
from replay_adapters.vlmevalkit.inputs import pixel_limit
from replay_adapters.vlmevalkit.journal import keep, noted_sample, shown
from replay_core import ReplayRecord
from replay_core.record import ToolUse

Prompt = list[dict[str, Any]]


def converses(settings: Settings, dataset: str | None) -> bool:
    """Return whether the rows of a set are asked in a conversation with the pair's tool."""
    return settings.protocol.tools is not None and bool(dataset and answers_calls(dataset))


def first_prompt(model: Any, row: Any, dataset: str) -> Prompt:
    """Return a row's picture and, as the pair's protocol has it, its question with its options."""
    pictures = model.dump_image(row, dataset)
    options = {
        letter: str(row[letter])
        for letter in string.ascii_uppercase
        if letter in row and not pd.isna(row[letter])
    }
    asked = _opened(model, without_instruction(str(row["question"])), options).question
    images = pictures if isinstance(pictures, list) else [pictures]
    return [{"type": "image", "value": images[0]}, {"type": "text", "value": asked}]


def converse(model: Any, prompt: Prompt, dataset: str | None) -> str:
    """Return the final answer of a conversation that begins with ``prompt``; keep all turns.

    With ``samples`` K there are K conversations, and the first one's answer is returned.
    """
    values = {part["type"]: part["value"] for part in prompt}
    image = _read(values["image"])
    index, answers, records = noted_sample(), [], []
    for repeat in range(model.plan.samples):
        opened = _opened(model, "", {})
        talk = Conversation(values["text"], opened.protocol, opened.tools, opened.limits)
        turns: list[ReplayRecord] = []
        with _one_conversation(model):
            while not talk.ended:
                model.answering.item = (dataset, index, repeat, len(talk.turns))
                text, record = _said(model, talk, image, index, repeat)
                talk = talk.after(text, image.size)
                turns.append(_noted(record, talk.turns[-1]))
        marks, cut = talk.protocol.answer, bool(turns[-1].truncated)
        answer = final_answer(talk.turns[-1].text, marks, form_taken(dataset), cut=cut)
        turns[-1] = turns[-1].model_copy(update={"answer": answer})
        answers.append(answer)
        records += turns
    keep(answers, [record.model_dump(mode="json") for record in records])
    return shown(answers[0])


@contextmanager
def _one_conversation(model: Any) -> Iterator[None]:
    """Hold what lasts as long as a conversation: where decoding stops, and x that is kept."""
    stop, now = model.settings.protocol.tools.stop, model.answering
    now.stopping = {"stop_strings": [stop], "tokenizer": model.processor.tokenizer}
    try:
        yield
    finally:
        now.stopping, now.kept = {}, None


def _said(
    model: Any, talk: Conversation, image: Image.Image, index: Any, repeat: int
) -> tuple[str, ReplayRecord]:
    """Return the model's next text and its record, from an earlier run where it was finished."""
    session = current()
    # x that is kept from turn to turn is nowhere written down.
    stored = None if session is None or model.settings.turns == "reuse" else session.journal.turns
    found = stored.find(index, repeat, len(talk.turns)) if stored else None
    if found is not None:
        return found
    text, record = model.text_of(_as_the_class_reads(talk.messages(image)))
    record = record.model_copy(update={"turn": len(talk.turns)})
    if stored:
        stored.add(index, repeat, text, record)
    return text, record


def _as_the_class_reads(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose pictures stand where qwen-vl-utils looks for them."""
    return [
        {
            **message,
            "content": [
                {"type": "image", "image": part["url"]} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def _noted(record: ReplayRecord, turn: Turn) -> ReplayRecord:
    use = ToolUse(box=turn.box, crop=turn.crop, size=turn.size, told=turn.told)
    found = {"response": turn.text, "tool": None if use == ToolUse() else use}
    return record.model_copy(update=found)


def _opened(model: Any, question: str, options: dict[str, str]) -> Conversation:
    protocol, boxes = model.settings.protocol, model.settings.boxes
    limits = limits_of(protocol, model.min_pixels, model.max_pixels, boxes)
    return Conversation.open(question, protocol, limits, options)


def _read(path: str) -> Image.Image:
    """Return the picture of a file.

    Raises:
        UnreadableInput: it cannot be read.
    """
    with pixel_limit(), reading(path), Image.open(path) as picture:
        return picture.convert("RGB")
