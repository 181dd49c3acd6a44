"""Boxes in the image that a model saw, carried over to the original."""

import numpy as np
import pytest
from PIL import Image
from qwen_vl_utils import smart_resize

from replay_adapters.agents.boxes import crop_size, cropped, placed, shown_size
from replay_adapters.agents.tool_calls import Refused
from replay_adapters.media import UnreadableInput
from replay_adapters.settings.pairs import read_pair

TOOLS = read_pair("deepeyes_7b").protocol.tools
LARGE = (6000, 4000)  # above 12.85 megapixels: the model sees it smaller


def test_the_size_that_a_model_sees_is_qwen_vl_utils():
    for size in ((640, 480), (33, 900), LARGE, (1, 1), (5, 900)):
        height, width = smart_resize(size[1], size[0], 28, 3136, 12845056)
        assert shown_size(size, 28, 3136, 12845056) == (width, height)


@pytest.mark.parametrize("size", [(10, 2001), (2001, 10)])
def test_a_picture_too_long_to_be_shown_is_named(size):
    with pytest.raises(UnreadableInput, match=f"{size[0]} by {size[1]} pixels are drawn out"):
        shown_size(size, 28, 3136, 12845056)


def test_a_mapped_box_is_the_same_part_of_the_original():
    seen = shown_size(LARGE, 28, 3136, 12845056)
    assert seen != LARGE
    quarter = (seen[0] / 2, seen[1] / 2, float(seen[0]), float(seen[1]))
    assert placed(quarter, LARGE, seen, "mapped") == (3000, 2000, 6000, 4000)


def test_a_published_box_has_the_same_numbers_in_the_original():
    seen = shown_size(LARGE, 28, 3136, 12845056)
    assert placed((10.0, 20.0, 400.0, 300.0), LARGE, seen, "published") == (10, 20, 400, 300)
    # Up to 12.85 megapixels the two differ by the rounding to multiples of 28 only.
    small = (1400, 1120)
    assert shown_size(small, 28, 3136, 12845056) == small
    box = (10.0, 20.0, 400.0, 300.0)
    assert placed(box, small, small, "mapped") == placed(box, small, small, "published")


@pytest.mark.parametrize("boxes", ["mapped", "published"])
def test_what_lies_outside_is_cut_off(boxes):
    assert placed((-9.0, -1e9, 30.0, 1e9), (100, 60), (100, 60), boxes) == (0, 0, 30, 60)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((30.0, 10.0, 10.0, 20.0), "x1 < x2 and y1 < y2"),
        ((10.0, 20.0, 20.0, 20.0), "has no area"),
        ((100.0, 0.0, 120.0, 9.0), "outside of the image, which is 100 pixels wide and 60 high"),
        ((-20.0, 0.0, 0.0, 9.0), "outside of the image"),
        ((1.0, 60.0, 9.0, 61.0), "outside of the image"),
    ],
)
def test_a_box_without_pixels_is_refused(box, says):
    found = placed(box, (1000, 600), (100, 60), "mapped")
    assert isinstance(found, Refused)
    assert says in found.sentence


def test_the_smallest_box_is_a_pixel():
    assert placed((5.2, 5.2, 5.4, 5.4), (100, 60), (100, 60), "mapped") == (5, 5, 6, 6)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 140, 140), (140, 140)),  # not enlarged
        ((0, 0, 10, 10), (56, 56)),  # 4 x 28 x 28 pixels at least
        ((0, 0, 100, 90), (112, 84)),
        ((0, 0, 6000, 4000), shown_size(LARGE, 28, 3136, 12845056)),
    ],
)
def test_a_crop_is_resized_as_deepeyes_script_does(box, size):
    assert crop_size(box, TOOLS) == size
    assert size[0] % 28 == size[1] % 28 == 0


@pytest.mark.parametrize("box", [(0, 0, 1, 300), (0, 0, 5990, 29), (0, 0, 29, 5790)])
def test_a_crop_too_thin_to_be_shown_is_refused(box):
    found = crop_size(box, TOOLS)
    assert isinstance(found, Refused)
    assert "too thin" in found.sentence


def test_a_crop_is_those_pixels_of_the_original():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    found = cropped(Image.fromarray(pixels), (10, 20, 66, 48), (56, 28))
    assert np.array_equal(np.asarray(found), pixels[20:48, 10:66])
