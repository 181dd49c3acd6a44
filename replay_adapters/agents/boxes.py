"""From the box that a model names to the crop that it is shown.

A model sees its image resized. The coordinates that it names are of that image, and the crop is
taken from the original.
"""

import math
from dataclasses import dataclass

from PIL import Image

from replay_adapters.agents.tool_calls import Coordinates, Refused
from replay_adapters.media import UnreadableInput
from replay_adapters.settings.tools import Boxes, ToolProtocol

Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, top, right, bottom

_RATIO = 200  # qwen-vl-utils and the processors take nothing longer


@dataclass(frozen=True)
class Limits:
    """How a picture is resized before a model sees it, and how its boxes are read.

    ``boxes``: ``mapped`` carries a box over to the original image; ``published`` takes its
    coordinates for those of the original, as DeepEyes' scripts do, which is another place where the
    model saw the image resized.
    """

    min_pixels: int
    max_pixels: int
    boxes: Boxes = "mapped"


def shown_size(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Return the size that a picture is shown in, by qwen-vl-utils' ``smart_resize``.

    Raises:
        UnreadableInput: it is drawn out too long.
    """
    from qwen_vl_utils.vision_process import smart_resize

    width, height = size
    if max(size) <= _RATIO * min(size):
        new_height, new_width = smart_resize(height, width, factor, min_pixels, max_pixels)
        if 0 < max(new_width, new_height) <= _RATIO * min(new_width, new_height):
            return new_width, new_height
    raise UnreadableInput(f"{width} by {height} pixels are drawn out too long to be shown")


def placed(box: Coordinates, size: Size, shown: Size, boxes: Boxes) -> Box | Refused:
    """Return the pixels of the original image (of ``size``) that a box means, or why it means none.

    ``shown`` is the size that the model saw. What lies outside of the image is cut off.
    """
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return Refused(
            "bbox_2d must have x1 < x2 and y1 < y2, where (x1, y1) is the top-left corner: "
            f"{_told(box)} has no area."
        )
    frame = shown if boxes == "mapped" else size
    if right <= 0 or bottom <= 0 or left >= frame[0] or top >= frame[1]:
        return Refused(
            f"{_told(box)} lies outside of the image, which is {frame[0]} pixels wide and "
            f"{frame[1]} high."
        )
    across, down = (whole / part for whole, part in zip(size, frame, strict=True))
    return (
        max(0, math.floor(left * across)),
        max(0, math.floor(top * down)),
        min(size[0], math.ceil(right * across)),
        min(size[1], math.ceil(bottom * down)),
    )


def crop_size(box: Box, tools: ToolProtocol) -> Size | Refused:
    """Return the size that a crop is shown in, or why it cannot be."""
    size = box[2] - box[0], box[3] - box[1]
    try:
        return shown_size(size, tools.factor, tools.min_crop_pixels, tools.max_crop_pixels)
    except UnreadableInput:
        return Refused(
            f"The box is {size[0]} by {size[1]} pixels of the image, which is too thin to be "
            "shown. Name a box that is less drawn out."
        )


def cropped(image: Image.Image, box: Box, size: Size) -> Image.Image:
    """Return a box of an image, resized (bicubic, as DeepEyes' scripts do)."""
    return image.crop(box).convert("RGB").resize(size, Image.Resampling.BICUBIC)


def resized(image: Image.Image, size: Size) -> Image.Image:
    """Return a whole image in the size that it is shown in."""
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _told(box: Coordinates) -> str:
    return f"[{', '.join(f'{number:g}' for number in box)}]"
