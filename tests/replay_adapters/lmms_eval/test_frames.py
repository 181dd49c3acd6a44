"""Which frames of a clip reach Video-R1's model, how many and how large, against hand-made numbers.

With the pair's own limits: 16 frames of 100,352 to 200,704 pixels each. No answer is generated.
"""

import importlib
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from replay_adapters.lmms_eval import models
from replay_adapters.settings.pairs import read_pair
from tests.replay_adapters.lmms_eval.clip_reading import Request, Stopped
from tests.support import video_sets as sets

LIMITS = read_pair("video_r1_7b").protocol
CLASSES = {
    "chat": models.Qwen25VLReplay,
    "simple": models.Qwen25VLReplaySimple,
}
# frames, frames a second, size → frames in pairs, and height and width in patches of 14 pixels;
# by hand: sides to the nearest multiple of 28, shrunk or enlarged together into the limits.
SHAPES = [
    ((40, 4, (1280, 720)), (8, 24, 42)),  # 588 x 336, as measured in both harnesses
    ((40, 4, (320, 240)), (8, 20, 28)),  # enlarged: 76,800 pixels are below the lower limit
    ((7, 4, (320, 240)), (3, 20, 28)),  # 6 of 7 frames
    ((3, 4, (320, 240)), (1, 20, 28)),  # 2 of 3
    ((2, 4, (320, 240)), (1, 20, 28)),
    ((1, 4, (320, 240)), (1, 20, 28)),  # the frame twice
    ((20, 4, (322, 414)), (8, 30, 24)),  # inside the limits: 12 x 28 and 15 x 28
    ((20, 4, (62, 994)), (8, 92, 6)),
]


@pytest.fixture(scope="module")
def seen(tiny_pairs, tmp_path_factory):
    """Return what ``generate`` would be given for one clip."""
    root = tmp_path_factory.mktemp("frames")
    file = sets.pair_file(root / "mine.yaml", *tiny_pairs["qwen2_5_vl"])
    text = file.read_text().replace("min_pixels: 3136", f"min_pixels: {LIMITS.min_pixels}")
    file.write_text(text.replace("max_pixels: 12544", f"max_pixels: {LIMITS.max_pixels}"))
    built = {}

    def ask(name, path):
        kind = CLASSES[name]
        if name not in built:
            given = f"pair={file},replay_method=none"
            built[name] = kind.create_from_arg_string(given, {"device": "cpu", "batch_size": 1})
        model, caught = built[name], []

        def stop(session, rows, inputs, generation, **more):
            caught.append(inputs)
            raise Stopped

        model.answerer.answer = stop
        model.task_dict = {"task": {"test": [{"file": str(path)}]}}

        def messages(doc):
            content = [{"type": "video", "url": doc["file"]}, {"type": "text", "text": "What?"}]
            return [{"role": "user", "content": content}]

        simple = ("What?", {"max_new_tokens": 1}, lambda doc: [doc["file"]], 0, "task", "test")
        chat = ("0", messages, {"max_new_tokens": 1}, 0, "task", "test")
        with pytest.raises(Stopped):
            model.generate_until([Request(0, simple if kind.is_simple else chat)])
        return model, caught[0]

    return ask


def shaded(path: Path, frames: int, rate: int, size: tuple[int, int], *, uneven: bool = False):
    """Write a clip whose frame k is flat, in a shade that rises from black to white with k."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            shade = round(255 * number / max(1, frames - 1))
            picture = np.full((size[1], size[0], 3), shade, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number * (number + 1) // 2 if uneven else number
            frame.time_base = Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def shades(model, inputs):
    """Return the shade (0 to 1) of each frame that the vision tower is given."""
    video = model.processor.video_processor
    ((steps, height, width),) = inputs["video_grid_thw"].tolist()
    shape = (steps, height * width, 3, video.temporal_patch_size, -1)
    red = inputs["pixel_values_videos"].float().reshape(shape)[:, :, 0].mean(dim=(1, -1))
    return (red * video.image_std[0] + video.image_mean[0]).flatten().tolist()


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(("clip", "grid"), SHAPES, ids=str)
def test_frames_are_as_many_and_as_large_as_the_rule_says(seen, tmp_path, name, clip, grid):
    model, inputs = seen(name, shaded(tmp_path / "clip.mp4", *clip))
    assert model.max_num_frames == 16
    assert tuple(inputs["video_grid_thw"][0].tolist()) == grid
    _, height, width = grid
    assert height * width * 14 * 14 <= LIMITS.max_pixels


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("count", [7, 16, 23, 40])
def test_the_frames_lie_evenly_from_the_first_to_the_last(seen, tmp_path, count, uneven):
    """By number, also where some last longer than others, as qwen-vl-utils takes them."""
    path = shaded(tmp_path / "clip.mp4", count, 4, (320, 240), uneven=uneven)
    found = [round(shade * (count - 1)) for shade in shades(*seen("chat", path))]
    sampled = min(16, count // 2 * 2)
    expected = [round(n * (count - 1) / (sampled - 1)) for n in range(sampled)]
    assert len(found) == sampled
    assert all(abs(one - other) <= 1 for one, other in zip(found, expected, strict=True))
    assert (found[0], found[-1]) == (0, count - 1)


def test_the_rule_by_hand_is_qwen_vl_utils_own():
    reader = importlib.import_module("qwen_vl_utils.vision_process")
    limits = {"min_pixels": LIMITS.min_pixels, "max_pixels": LIMITS.max_pixels}
    for (_, _, (width, height)), (_, high, wide) in SHAPES:
        assert reader.smart_resize(height, width, factor=28, **limits) == (14 * high, 14 * wide)
    shrunk = math.sqrt(1280 * 720 / LIMITS.max_pixels)
    assert (math.floor(1280 / shrunk / 28) * 28, math.floor(720 / shrunk / 28) * 28) == (588, 336)
