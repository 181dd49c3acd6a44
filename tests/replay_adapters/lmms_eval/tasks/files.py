"""Tasks whose documents name a file: a clip, or a picture that the task opens itself."""

from typing import Any

from PIL import Image


def clips(doc: dict[str, Any]) -> list[str]:
    """Return the document's clips, as paths."""
    return doc["files"]


def pictures(doc: dict[str, Any]) -> list[Image.Image]:
    """Return the document's pictures, opened and converted as most tasks do."""
    return [Image.open(path).convert("RGB") for path in doc["files"]]


def column(doc: dict[str, Any]) -> list[Image.Image]:
    """Return the picture that the dataset has decoded, on a canvas of the task's own."""
    picture = doc["picture"].convert("RGB")
    canvas = Image.new("RGB", picture.size)
    canvas.paste(picture)
    return [canvas]


def columns(doc: dict[str, Any]) -> list[Image.Image]:
    """Return the pictures of a list in the dataset."""
    return doc["pictures"]
