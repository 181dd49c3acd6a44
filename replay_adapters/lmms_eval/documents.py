"""A task's documents, whose pictures may be broken: looked up all the same, with a note why.

lmms-eval decodes the pictures of a document whenever it looks at it: of the first one to build
the task, of others to build prompts and to score. A broken one would end the run there, before or
after any answer.
"""

from typing import Any

from datasets import Features, Image
from PIL import Image as Pictures

from replay_adapters.media import UnreadableInput, is_decoders_fault, told

_WHY = "activation_replay_unreadable"


class TolerantImage(Image):
    """Decodes a picture; one that cannot be decoded is grey and says why (:func:`check`)."""

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Return the picture of a path or of bytes."""
        try:
            return super().decode_example(value, token_per_repo_id)
        except Exception as error:
            if not is_decoders_fault(error):
                raise
            return _stand_in(f"{_name(value)}: {told(error)}")


def make_tolerant(features: Features) -> None:
    """Let a dataset's pictures, also those in lists, be decoded by :class:`TolerantImage`."""
    for name, feature in list(features.items()):
        features[name] = _tolerant(feature)


def check(document: Any) -> None:
    """Raise UnreadableInput when a document holds a picture that could not be decoded."""
    if isinstance(document, Pictures.Image):
        if (why := document.info.get(_WHY)) is not None:
            raise UnreadableInput(why)
    elif isinstance(document, dict):
        for value in document.values():
            check(value)
    elif isinstance(document, list | tuple):
        for value in document:
            check(value)


def _tolerant(feature: Any) -> Any:
    if type(feature) is Image:
        return TolerantImage(mode=feature.mode, decode=feature.decode)
    if isinstance(feature, dict):
        return {name: _tolerant(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_tolerant(inner) for inner in feature]
    if hasattr(feature, "feature"):  # List, LargeList, Sequence
        feature.feature = _tolerant(feature.feature)
    return feature


def _stand_in(why: str) -> Pictures.Image:
    picture = Pictures.new("RGB", (56, 56), "grey")
    picture.info[_WHY] = why
    return picture


def _name(value: Any) -> str:
    if isinstance(value, dict) and value.get("path"):
        return str(value["path"])
    content = value.get("bytes") if isinstance(value, dict) else None
    return "an image" if content is None else f"an image of {len(content)} bytes"
