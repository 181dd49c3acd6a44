"""Pictures and clips through the harness's classes: their rates, and those that are unreadable."""

import base64
import inspect
import subprocess
import sys
from types import SimpleNamespace

import cv2
import pandas as pd
import pytest
import torch
from PIL import Image
from qwen_vl_utils import vision_process
from transformers import ProcessorMixin

from replay_adapters.session.session import Session, opened
from replay_adapters.vlmevalkit import inputs
from replay_core import Outcome, Steered
from tests.replay_adapters.vlmevalkit.conftest import SMALL
from tests.support.unreadable import broken_pictures, png, write_broken_clips, write_clip

QUESTION = {"type": "text", "value": "What is it?"}
PICTURES = broken_pictures()
CLIPS = ("empty", "garbage", "cut", "damaged", "long_drawn", "sound_only")


@pytest.fixture(scope="module")
def make(harness, tiny_pairs, tmp_path_factory):
    """Build a model of a family that answers without replay."""
    import vlmeval.vlm

    def made(family="qwen2_5_vl", **options):
        pair = tiny_pairs[family]
        name = "Qwen3VLChatReplay" if family == "qwen3_vl" else "Qwen2VLChatReplay"
        given = {"model_path": str(pair.policy), "replay_base": str(pair.base), **SMALL}
        built = getattr(vlmeval.vlm, name)(**{**given, "replay_method": "none", **options})
        built.fps = None  # as the harness sets it for a set with a number of frames
        return built

    return made


@pytest.fixture(scope="module")
def model(make):
    return make(nframe=8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_broken_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def kept():
    """What is written down for each sample: its answers and records."""
    lines = []

    def add(line):
        lines.append((line["predictions"], line["replay"]))

    with opened(Session(journal=SimpleNamespace(add=add))):
        yield lines


def unread(model, kept, part):
    """Ask about one input; return what the record says of it, with the file's name left out."""
    assert model.generate([part, QUESTION], dataset="mine") == " "
    (answers, (record,)) = kept.pop()
    assert answers == [""]
    assert record["outcome"] == Outcome.UNREADABLE_INPUT == "unreadable_input"
    assert record["method"] == "none"
    name, _, reason = record["error"].partition(": ")
    assert name == part["value"]
    return reason


@pytest.mark.parametrize("kind", PICTURES)
def test_a_broken_picture_is_its_samples_outcome(model, kept, tmp_path, kind):
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES[kind])
    before = Image.MAX_IMAGE_PIXELS
    reason = unread(model, kept, {"type": "image", "value": str(path)})
    told = {
        "bomb": "DecompressionBombError: Image size (200000000 pixels) exceeds limit",
        "long_drawn": "ValueError: absolute aspect ratio must be smaller than 200, got 205",
        "tall": "ValueError: absolute aspect ratio must be smaller than 200, got 300",
        "empty": "UnidentifiedImageError",
        "garbage": "UnidentifiedImageError",
        "cut": "OSError: image file is truncated",
    }
    assert reason.startswith(told.get(kind, ""))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("rate", [None, 2])
@pytest.mark.parametrize("kind", CLIPS)
def test_a_broken_clip_is_its_samples_outcome(model, kept, clips, monkeypatch, kind, rate):
    monkeypatch.setattr(model, "fps", rate)
    reason = unread(model, kept, {"type": "video", "value": str(clips[kind])})
    told = {
        "long_drawn": "its frames of 4400 by 20 pixels are drawn out too long",
        "sound_only": "DECORDError: st_nb >= 0",
    }
    assert reason.startswith(told.get(kind, ""))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_the_other_classes_name_what_they_cannot_read(make, kept, clips, tmp_path, family):
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES["cut"])
    model = make(family, nframe=4)
    assert unread(model, kept, {"type": "image", "value": str(path)}).startswith("OSError: image f")
    clip = {"type": "video", "value": str(clips["long_drawn"])}
    told = "its frames of 4400 by 20 pixels are drawn out too long"
    assert unread(model, kept, clip) == told


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("rate", [None, 2])
def test_a_clip_of_one_frame_is_answered(make, kept, tmp_path, monkeypatch, family, rate):
    """As in lmms-eval: the processors repeat the frame."""
    small = {"min_pixels": 4096, "max_pixels": 65536} if family == "qwen3_vl" else {}
    model = make(family, nframe=4, **small)
    model.fps = rate
    seen = _watch(model, monkeypatch)
    path = write_clip(tmp_path / "one.mp4", 1)
    assert model.generate([{"type": "video", "value": str(path)}, QUESTION], dataset="mine") != " "
    assert seen["video_grid_thw"][:, 0].tolist() == [1]
    (_, (record,)) = kept.pop()
    assert record["outcome"] == Outcome.OFF


def test_a_file_that_is_not_there_is_named(model, kept, tmp_path):
    missing = {"type": "image", "value": str(tmp_path / "missing.png")}
    assert unread(model, kept, missing) == "there is no such file"


def test_a_picture_that_rounding_lengthens_is_unreadable_where_its_processor_refuses_it(
    make, kept, tmp_path
):
    path = tmp_path / "thread.png"
    path.write_bytes(png(5780, 29))  # 199 to 1, and 206 to 1 in patches of 28
    part = {"type": "image", "value": str(path)}
    reason = unread(make(max_pixels=12845056), kept, part)
    assert reason.startswith("ValueError: absolute aspect ratio must be smaller than 200, got 206")


def test_strict_raises_and_names_the_file(make, kept, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES["garbage"])
    part = {"type": "image", "value": str(path)}
    with pytest.raises(inputs.UnreadableInput, match=r"picture\.png: UnidentifiedImageError"):
        make(replay_strict=True).generate([part, QUESTION], dataset="mine")
    assert kept == []


def test_every_repeat_of_an_unreadable_sample_has_its_record(make, kept, clips):
    sampled = make(samples=3, temperature=1.0, nframe=4)
    part = {"type": "video", "value": str(clips["cut"])}
    assert sampled.generate([part, QUESTION], dataset="mine") == " "
    answers, records = kept.pop()
    assert answers == ["", "", ""]
    assert [record["outcome"] for record in records] == ["unreadable_input"] * 3


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (ProcessorMixin, "__call__", ValueError("of the processor")),
        (vision_process, "fetch_video", KeyError("of the reader")),
        (vision_process, "fetch_image", OSError(24, "Too many open files")),
    ],
)
def test_what_is_no_fault_of_the_input_ends_the_run(
    model, kept, tmp_path, monkeypatch, owner, name, error
):
    def fails(*arguments, **options):
        raise error

    whole = tmp_path / "whole.png"
    whole.write_bytes(png(56, 56))
    clip = write_clip(tmp_path / "whole.mp4", 8)
    parts = [{"type": "image", "value": str(whole)}, {"type": "video", "value": str(clip)}]
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(type(error)) as raised:
        model.generate([*parts, QUESTION], dataset="mine")
    assert raised.value is error
    assert kept == []


def test_an_exception_of_the_model_is_its_samples_outcome(model, kept, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise ValueError("of our own")

    whole = tmp_path / "whole.png"
    whole.write_bytes(png(56, 56))
    monkeypatch.setattr(Steered, "decode", fails)
    asked = [{"type": "image", "value": str(whole)}, QUESTION]
    assert model.generate(asked, dataset="mine") == " "
    ((answers, records),) = kept
    assert {answer.strip() for answer in answers} == {""}
    assert {record["outcome"] for record in records} == {"failed"}
    assert {record["error"] for record in records} == {"ValueError: of our own"}


def test_a_rows_picture_that_cannot_be_decoded_stands_for_its_prompt(tmp_path):
    def build(row):
        raise RuntimeError("of the harness")

    cells = [base64.b64encode(png(30, 30)).decode(), base64.b64encode(PICTURES["cut"]).decode()]
    row = pd.Series({"index": 37, "image": cells})
    prompt = inputs.built(build, row, row)
    assert isinstance(prompt, inputs.UnreadPrompt)
    assert str(prompt.fault).startswith("index 37: an image: OSError: image file is truncated")
    with pytest.raises(RuntimeError, match="of the harness"):
        inputs.built(build, pd.Series({"index": 3, "image": cells[0]}), row)


def test_the_pixel_limit_is_pils_own():
    code = "from PIL import Image; print(Image.MAX_IMAGE_PIXELS)"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(fresh.stdout) == inputs.PIXEL_LIMIT


def test_upstream_reads_through_what_is_replaced(harness):
    for function in (vision_process.fetch_image, vision_process.fetch_video):
        assert next(iter(inspect.signature(function).parameters)) == "ele"
        assert f"{function.__name__}(vision_info" in inspect.getsource(
            vision_process.process_vision_info
        ), f"upstream changed process_vision_info: no {function.__name__}"
    taken = inspect.signature(vision_process.fetch_video).parameters
    assert {"return_video_metadata", "return_video_sample_fps"} <= set(taken)


# Frames in the file, frames a second, the class's setting → frames that are sampled.
RATES = [
    (16, 4.0, {"nframe": 8, "fps": None}, 8),
    (21, 30.0, {"nframe": 6, "fps": None}, 6),
    (7, 12.0, {"nframe": 16, "fps": None}, 6),  # fewer than asked: the even number below
    (3, 5.0, {"nframe": 8, "fps": None}, 2),
    (40, 8.0, {"fps": 2}, 10),
    (30, 25.0, {"fps": 10}, 12),
    (10, 2.0, {"fps": 0.1}, 4),  # at least four
]


@pytest.mark.parametrize(("count", "rate", "setting", "sampled"), RATES)
def test_qwen2_5_vl_is_told_how_far_apart_a_clips_grids_are(
    make, model, tmp_path, monkeypatch, count, rate, setting, sampled
):
    """By the file's own count and rate: seconds per grid, and the temporal positions from it."""
    path = write_clip(tmp_path / "clip.mp4", count, rate)
    capture = cv2.VideoCapture(str(path))
    seconds = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    expected = 2 / (sampled / seconds)  # temporal_patch_size / sampled frames per second

    monkeypatch.setattr(model, "fps", setting["fps"])
    monkeypatch.setattr(model, "nframe", setting.get("nframe", 128))
    seen = _watch(model, monkeypatch)
    model.generate([{"type": "video", "value": str(path)}, QUESTION], dataset="mine")
    (grid,) = seen["video_grid_thw"].tolist()
    assert grid[0] * 2 == sampled
    assert seen["second_per_grid_ts"].tolist() == pytest.approx([expected], rel=1e-4)

    policy = model.pair.policy.model
    per_second = policy.config.vision_config.tokens_per_second
    visual = seen["input_ids"][0] == policy.config.video_token_id
    temporal = seen["position_ids"][0, 0, visual].reshape(grid[0], -1)
    start = temporal[0, 0].item()
    steps = [int(number * expected * per_second + 1e-4) for number in range(grid[0])]
    assert (temporal - start).tolist() == [[step] * temporal.shape[1] for step in steps]
    assert len(set(steps)) == len(steps) or expected * per_second < 1


def test_two_clips_in_one_prompt_have_their_own_rates(model, tmp_path, monkeypatch):
    paths = [write_clip(tmp_path / f"{rate}.mp4", 16, rate) for rate in (4.0, 16.0)]
    seen = _watch(model, monkeypatch)
    parts = [{"type": "video", "value": str(path)} for path in paths]
    model.generate([*parts, QUESTION], dataset="mine")
    # Eight of sixteen frames: of 4 seconds, and of 1.
    assert seen["second_per_grid_ts"].tolist() == pytest.approx([1.0, 0.25])


def test_qwen2_vl_counts_grids_and_takes_no_rate(make, tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", 16, 2.0)
    model = make("qwen2_vl", nframe=8)
    seen = _watch(model, monkeypatch)
    model.generate([{"type": "video", "value": str(path)}, QUESTION], dataset="mine")
    assert "second_per_grid_ts" not in seen
    visual = seen["input_ids"][0] == model.pair.policy.model.config.video_token_id
    temporal = seen["position_ids"][0, 0, visual].reshape(4, -1)[:, 0]
    assert (temporal - temporal[0]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("count", "rate"), [(16, 4.0), (24, 3.0)])
def test_qwen3_vl_is_told_the_second_of_every_grid(make, tmp_path, monkeypatch, count, rate):
    path = write_clip(tmp_path / "clip.mp4", count, rate)
    model = make("qwen3_vl", nframe=6, min_pixels=4096, max_pixels=65536)
    seen = _watch(model, monkeypatch)
    model.generate([{"type": "video", "value": str(path)}, QUESTION], dataset="mine")
    frames = torch.linspace(0, count - 1, 6).round().tolist()
    middles = [sum(frames[n : n + 2]) / 2 / rate for n in (0, 2, 4)]
    prompt = model.processor.tokenizer.decode(seen["input_ids"][0])
    for middle in middles:
        assert f"<{middle:.1f} seconds>" in prompt


def _watch(model, monkeypatch):
    """Return the prompt's tensors, "position_ids" (3, 1, tokens) among them, as they come."""
    seen = {}
    decode, text = Steered.decode, model.pair.policy.model.get_decoder()

    def decoded(steered, inputs, result, **generation):
        seen.update(inputs)
        return decode(steered, inputs, result, **generation)

    def noted(module, given, options):
        seen.setdefault("position_ids", options["position_ids"][-3:])

    monkeypatch.setattr(Steered, "decode", decoded)
    handle = text.register_forward_pre_hook(noted, with_kwargs=True)
    monkeypatch.setattr(model, "unhook", handle.remove, raising=False)
    return seen
