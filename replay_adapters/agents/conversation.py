"""A conversation with a zoom tool, from one text of the model to the next.

A pure state machine: no model, no harness. It is opened with a question, told each text that the
model writes, and says what the model is shown next, or that nothing more is asked::

    opened = Conversation.open(question, protocol, limits)       # protocol: a pair's, with `tools`
    messages = opened.messages(image)                            # [system,] user
    conversation = opened.after(text, image.size)                # the model wrote `text`
    while not conversation.ended:
        messages = conversation.messages(image)                  # …, assistant, user (the crop)
        conversation = conversation.after(text, image.size)

It ends with a text that has no tool call or a final answer, and at the latest with the protocol's
``max_turns``-th text. A call that cannot be run is answered by a sentence in the crop's place.

**How a task of lmms-eval declares the loop** (``tasks/README.md``): ``output_type:
generate_until_multi_round`` and a ``doc_to_messages`` that calls :func:`next_messages`::

    def doc_to_messages(doc, round_idx=None, previous_output=None, previous_round_info=None):
        opened = Conversation.open(doc["question"], protocol(), limits())
        return next_messages(opened, lambda: doc["image"], previous_output, previous_round_info)

The whole prompt is then the conversation's (system prompt and suffix included), and a pair's
protocol is not laid over it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from replay_adapters.agents.boxes import (
    Box,
    Limits,
    Size,
    crop_size,
    cropped,
    placed,
    resized,
    shown_size,
)
from replay_adapters.agents.tool_calls import (
    Coordinates,
    Refused,
    parse_call,
    without_control_tokens,
)
from replay_adapters.settings.pairs import Protocol
from replay_adapters.settings.tools import IMAGE, ToolProtocol

Message = dict[str, Any]
_ANSWERED = "</answer>"


class Messages(list[Message]):
    """Chat messages (``role``; ``content``: parts with ``text``, or a PIL picture as ``url``) that
    know the conversation they are of."""

    def __init__(self, messages: Sequence[Message], conversation: "Conversation") -> None:
        super().__init__(messages)
        self.conversation = conversation


@dataclass(frozen=True)
class Turn:
    """A text of the model, and what the tool made of it.

    ``box`` is what the model named, ``crop`` those pixels of the original image, ``size`` the size
    that they are shown in; ``told`` is the sentence in their place, or beside them. All are None
    where no tool was called, and where the conversation ended with the text.
    """

    text: str
    box: Coordinates | None = None
    crop: Box | None = None
    size: Size | None = None
    told: str | None = None


@dataclass(frozen=True)
class Conversation:
    """A conversation about one image, up to what the model has written so far.

    Holds no pixels, so that many can be kept at once.
    """

    question: str
    protocol: Protocol
    tools: ToolProtocol
    limits: Limits
    turns: tuple[Turn, ...] = ()
    ended: bool = False

    @classmethod
    def open(
        cls,
        question: str,
        protocol: Protocol,
        limits: Limits,
        options: Mapping[str, str] | None = None,
    ) -> "Conversation":
        """Return a conversation that begins with a question, and its ``options`` by letter.

        Raises:
            ValueError: the protocol has no ``tools``.
        """
        if protocol.tools is None:
            raise ValueError("a conversation needs a protocol with `tools`")
        form = protocol.tools.choice_question if options else protocol.tools.question
        lines = "\n" + "".join(f"{letter}. {text}\n" for letter, text in (options or {}).items())
        before, _, behind = form.partition("{question}")
        asked = before + question + behind.replace("{options}", lines)
        return cls(asked + (protocol.user_suffix or ""), protocol, protocol.tools, limits)

    def after(self, text: str, size: Size) -> "Conversation":
        """Return the conversation after the model has written ``text`` about an image of ``size``.

        Raises:
            ValueError: it has ended before.
        """
        if self.ended:
            raise ValueError(f"the conversation has ended after {len(self.turns)} turns")
        last = len(self.turns) + 1 >= self.tools.max_turns
        call = None if last or _ANSWERED in text else parse_call(text, self.tools.name)
        if call is None:
            return replace(self, turns=(*self.turns, Turn(text)), ended=True)
        turn = Turn(text, told=call.sentence) if isinstance(call, Refused) else None
        if turn is None:
            assert not isinstance(call, Refused)
            turn = self._zoomed(text, call.box, size, call.others)
        return replace(self, turns=(*self.turns, turn))

    def _zoomed(self, text: str, box: Coordinates, size: Size, others: int) -> Turn:
        crop = placed(box, size, self.shown(size), self.limits.boxes)
        shown = crop if isinstance(crop, Refused) else crop_size(crop, self.tools)
        if isinstance(shown, Refused):
            return Turn(text, box, told=shown.sentence)
        assert not isinstance(crop, Refused)
        told = f"Only the first of {others + 1} tool calls was run. Call again for the next one."
        return Turn(text, box, crop, shown, told if others else None)

    def shown(self, size: Size) -> Size:
        """Return the size that an image of ``size`` is shown in.

        Raises:
            UnreadableInput: it is drawn out too long.
        """
        limits = self.limits
        return shown_size(size, self.tools.factor, limits.min_pixels, limits.max_pixels)

    def messages(self, image: Image.Image) -> Messages:
        """Return what the model is asked next: everything so far, the last user's turn included."""
        picture = resized(image, self.shown(image.size))
        messages = [_message("user", picture, self.question)]
        if self.protocol.system_prompt is not None:
            messages.insert(0, _message("system", self.protocol.system_prompt))
        for turn in self.turns:
            messages += [_message("assistant", self._said(turn)), self._response(turn, image)]
        return Messages(messages, self)

    def _said(self, turn: Turn) -> str:
        """Return a text as the model reads it again, its call closed where decoding stopped."""
        said = without_control_tokens(turn.text)
        return said if self.tools.stop in said else said + self.tools.stop

    def _response(self, turn: Turn, image: Image.Image) -> Message:
        shown: list[Image.Image | str] = []
        if turn.crop is not None and turn.size is not None:
            shown.append(cropped(image, turn.crop, turn.size))
        if turn.told is not None:
            shown.append(turn.told)
        parts: list[Image.Image | str] = []
        for part in self.tools.response:
            parts += shown if part == IMAGE else [part]
        return _message("user", *parts)


def next_messages(
    opened: Conversation,
    image: Callable[[], Image.Image],
    previous_output: Sequence[str] | None = None,
    previous_round_info: Conversation | None = None,
) -> Messages | tuple[Messages | None, bool, list[str], Conversation]:
    """Return what a task's ``doc_to_messages`` returns in lmms-eval's multi-round protocol.

    In the first round (``previous_output`` None) that is the messages; later ``(messages,
    terminal, outputs, info)``, where ``info`` is the conversation, to be given back as
    ``previous_round_info``. ``image`` is called only where it is needed.
    """
    if previous_output is None:
        return opened.messages(image())
    conversation = opened if previous_round_info is None else previous_round_info
    texts = list(previous_output)
    for text in texts[len(conversation.turns) :]:
        if not conversation.ended:
            calls = parse_call(text, conversation.tools.name) is not None
            conversation = conversation.after(text, image().size if calls else (1, 1))
    if conversation.ended:
        return None, True, texts, conversation
    return conversation.messages(image()), False, texts, conversation


def _message(role: str, *parts: Image.Image | str) -> Message:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "url": part}
        for part in parts
    ]
    return {"role": role, "content": content}
