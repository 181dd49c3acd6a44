"""The tool call in what a model wrote: a box to zoom into, or a sentence that says what is wrong.

A call is parsed as JSON and never evaluated.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
# Characters of one call, and the largest coordinate: far above what any call needs.
LONGEST = 4000
_LARGEST = 1e9
_CONTROL = re.compile(r"<(\|[^|<>\s]{1,60}\||image|video|img|IMG_CONTEXT|audio)>", re.IGNORECASE)
_EXAMPLE = '{"name": "%s", "arguments": {"bbox_2d": [x1, y1, x2, y2]}}'

Coordinates = tuple[float, float, float, float]


@dataclass(frozen=True)
class ZoomCall:
    """A call to zoom into a box (left, top, right, bottom), in pixels of the image as it was shown.

    ``others``: how many further calls stand behind it.
    """

    box: Coordinates
    others: int = 0


@dataclass(frozen=True)
class Refused:
    """Why a call is not run, as a sentence to the model."""

    sentence: str


class _Repeated(ValueError):
    """A key that stands twice in one object."""


def parse_call(text: str, name: str) -> ZoomCall | Refused | None:
    """Return the first call in a model's ``text``; None where it calls no tool.

    ``name`` is the only tool there is. The end of the text may stand for the closing tag, as where
    decoding stops at it.
    """
    _, opening, behind = text.partition(_OPEN)
    if not opening:
        return None
    content, _, more = behind.partition(_CLOSE)
    call = _parsed(content.strip(), name)
    if isinstance(call, Refused):
        return call
    return ZoomCall(call, more.count(_OPEN))


def without_control_tokens(text: str) -> str:
    """Return a text whose spelt-out control tokens (``<|image_pad|>``) are none any more.

    A tokenizer takes such a text for the token itself, and a processor for the place of a picture.
    """
    return _CONTROL.sub(r"< \1 >", text.encode("utf-8", "replace").decode("utf-8"))


def _parsed(content: str, name: str) -> Coordinates | Refused:
    form = _EXAMPLE % name
    if len(content) > LONGEST:
        return Refused(
            f"The tool call has {len(content)} characters, more than {LONGEST}. Write only {form}."
        )
    try:
        call = json.loads(content, object_pairs_hook=_unique)
    except _Repeated as error:
        return Refused(f"The tool call gives {error} twice. Write {form}.")
    except (ValueError, RecursionError):
        return Refused(f"The tool call is not valid JSON. Write {form}.")
    if not isinstance(call, dict):
        return Refused(f"The tool call is not a JSON object. Write {form}.")
    if call.get("name") != name:
        return Refused(f"There is no tool {_quoted(call.get('name'))}. The only one is {name}.")
    arguments = call.get("arguments")
    if not isinstance(arguments, dict) or "bbox_2d" not in arguments:
        return Refused(f"The tool call has no bbox_2d among its arguments. Write {form}.")
    return _coordinates(arguments["bbox_2d"])


def _coordinates(given: Any) -> Coordinates | Refused:
    wanted = "bbox_2d must be four numbers, [x1, y1, x2, y2] in pixels of the image"
    if not isinstance(given, list) or len(given) != 4:
        return Refused(f"{wanted}, not {_quoted(given)}.")
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return Refused(f"{wanted}; {_quoted(number)} is no number.")
        if isinstance(number, float) and not math.isfinite(number):
            return Refused(f"{wanted}; {number} is not finite.")
        if not -_LARGEST <= number <= _LARGEST:
            return Refused(f"{wanted}; one of yours is far outside of any image.")
    left, top, right, bottom = map(float, given)
    return left, top, right, bottom


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Repeated(_quoted(key))
        found[key] = value
    return found


def _quoted(given: Any, most: int = 40) -> str:
    """Return something that a model wrote as a short printable text without tags."""
    if isinstance(given, list | dict):
        return f"a {'list of ' + str(len(given)) if isinstance(given, list) else 'JSON object'}"
    text = ascii(given) if isinstance(given, str) else json.dumps(given)
    text = re.sub(r"[<>|]", " ", text)
    return text if len(text) <= most else f"{text[:most]}…"
