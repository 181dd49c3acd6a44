"""How the model that is being evaluated is to be asked by a task that answers its tool calls."""

from collections.abc import Sequence
from typing import Any

from replay_adapters.agents.boxes import Limits
from replay_adapters.session.session import current
from replay_adapters.settings.answers import Takes, final_answer
from replay_adapters.settings.pairs import Protocol, read_pair
from replay_adapters.settings.tools import Boxes
from replay_core import UsageError

DEEPEYES = "deepeyes_7b"
# What V*'s own questions end with.
_DIRECTLY = "Answer with the option's letter from the given choices directly."


def asking(pair: str = DEEPEYES) -> tuple[Protocol, Limits]:
    """Return the protocol of a conversation, and how its pictures are shown.

    Of our models these are the pair's own protocol, the pixels that the harness's class was given,
    and ``replay_boxes``; of other models, and without a protocol, those of the shipped ``pair``.

    Raises:
        UsageError: the pair has a protocol of its own, without a tool.
    """
    session = current()
    model: Any = None if session is None else session.model
    shipped = read_pair(pair).protocol
    if model is None:
        return shipped, limits_of(shipped)
    protocol = model.settings.protocol
    if protocol == Protocol():
        protocol = shipped
    if protocol.tools is None:
        raise UsageError(
            f"this task asks for tool calls, which the prompt of pair={model.settings.pair.name} "
            f"does not offer; take a task without them, pair={pair}, or replay_protocol=task to "
            f"ask in {pair}'s prompt"
        )
    smallest, largest = (getattr(model, name, None) for name in ("min_pixels", "max_pixels"))
    return protocol, limits_of(protocol, smallest, largest, model.settings.boxes)


def last_answer(outputs: str | Sequence[str], takes: Takes = "text") -> str:
    """Return the final answer in a conversation's texts, as a scorer is to be given it; the last
    text has it, and it is empty where there is none."""
    text = outputs if isinstance(outputs, str) else (outputs[-1] if outputs else "")
    protocol, _ = asking()
    return final_answer(text, protocol.answer, takes)


def without_instruction(question: str) -> str:
    """Return a question without V*'s own instruction behind it, which would contradict the tool's
    protocol."""
    asked = question.rstrip()
    return asked.removesuffix(_DIRECTLY).rstrip() if asked.endswith(_DIRECTLY) else question


def limits_of(
    protocol: Protocol,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    boxes: Boxes = "mapped",
) -> Limits:
    """Return how pictures are shown: within the given pixels, or else the protocol's, or else those
    of qwen-vl-utils."""
    from qwen_vl_utils import vision_process as reader

    token = (protocol.tools.factor if protocol.tools is not None else 28) ** 2
    return Limits(
        min_pixels or protocol.min_pixels or reader.IMAGE_MIN_TOKEN_NUM * token,
        max_pixels or protocol.max_pixels or reader.IMAGE_MAX_TOKEN_NUM * token,
        boxes,
    )
