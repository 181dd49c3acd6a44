"""How the model that is being evaluated is to be asked by a task that answers its tool calls."""

from collections.abc import Sequence
from typing import Any

from replay_adapters.agents.boxes import Limits
from replay_adapters.session.session import current
from replay_adapters.settings.answers import Takes, final_answer
from replay_adapters.settings.pairs import Protocol, read_pair
from replay_core import UsageError

DEEPEYES = "deepeyes_7b"


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
        return shipped, _limits(shipped, None)
    protocol = model.settings.protocol
    if protocol == Protocol():
        protocol = shipped
    if protocol.tools is None:
        raise UsageError(
            f"this task asks for tool calls, which the prompt of pair={model.settings.pair.name} "
            f"does not offer; take a task without them, pair={pair}, or replay_protocol=task to "
            f"ask in {pair}'s prompt"
        )
    return protocol, _limits(protocol, model)


def last_answer(outputs: str | Sequence[str], takes: Takes = "text") -> str:
    """Return the final answer in a conversation's texts, as a scorer is to be given it; the last
    text has it, and it is empty where there is none."""
    text = outputs if isinstance(outputs, str) else (outputs[-1] if outputs else "")
    protocol, _ = asking()
    return final_answer(text, protocol.answer, takes)


def _limits(protocol: Protocol, model: Any) -> Limits:
    from qwen_vl_utils import vision_process as reader

    factor = protocol.tools.factor if protocol.tools is not None else 28
    smallest = getattr(model, "min_pixels", None) or protocol.min_pixels
    largest = getattr(model, "max_pixels", None) or protocol.max_pixels
    return Limits(
        smallest or reader.IMAGE_MIN_TOKEN_NUM * factor**2,
        largest or reader.IMAGE_MAX_TOKEN_NUM * factor**2,
        "mapped" if model is None else model.settings.boxes,
    )
