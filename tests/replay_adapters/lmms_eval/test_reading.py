"""What each Qwen class makes of clips of many lengths and rates, up to the decoder's positions.

Each frame of a clip has its own shade, so that the frames that a class took are read off the
pixels it made, whatever it says of them.
"""

import importlib
import inspect
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import av
import pytest
import torch
from PIL import Image
from qwen_vl_utils import vision_process

from replay_adapters.lmms_eval import models, reading, unreadable
from replay_adapters.media import UnreadableInput
from replay_adapters.session.session import Session, current, opened
from tests.replay_adapters.lmms_eval.clip_reading import ARGUMENTS, CLASSES, CLIPS, MOST
from tests.support import media


def shades(arguments: dict[str, Any], model: Any) -> list[list[float]]:
    """Return, per clip, the shade (0 to 1) of each frame that the vision tower is given."""
    video = model.processor.video_processor
    grids = arguments["video_grid_thw"].tolist()
    pixels = arguments["pixel_values_videos"].float()
    per_clip = pixels.split([t * h * w for t, h, w in grids])
    found = []
    for (steps, height, width), patches_ in zip(grids, per_clip, strict=True):
        shape = (steps, height * width, 3, video.temporal_patch_size, -1)
        red = patches_.reshape(shape)[:, :, 0].mean(dim=(1, -1))  # (steps, frames of a step)
        red = red * video.image_std[0] + video.image_mean[0]
        found.append(red.flatten().tolist())
    return found


def taken(clip: str, arguments: dict[str, Any], model: Any, row: int = 0) -> list[int]:
    """Return which frames of a clip the class took, to within a frame in a long one."""
    frames, _ = CLIPS[clip]
    return [round(shade * (frames - 1)) for shade in shades(arguments, model)[row]]


def temporal(model: Any, arguments: dict[str, Any]) -> list[list[int]]:
    """Return, per row, the temporal positions of the grids that reach the policy's decoder."""
    caught: dict[str, Any] = {}
    policy = model.pair.policy.model

    def hook(module, given, named):
        caught.setdefault("positions", named["position_ids"])

    handle = policy.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        policy.generate(**arguments)
    finally:
        handle.remove()
    positions = caught["positions"][-3]  # behind text positions, where there are any
    rows = []
    for row, ids in zip(positions, arguments["input_ids"], strict=True):
        along = row[ids == policy.config.video_token_id]
        rows.append((along - along[0]).unique().tolist())
    return rows


@pytest.mark.parametrize("name", ["qwen2_5_chat", "qwen2_5_simple"])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_clips_rate_reaches_the_decoder(asked, clips, name, clip):
    """Seconds of a grid: the two frames it holds, over the frames sampled in a second."""
    frames, rate = CLIPS[clip]
    with av.open(str(clips[clip])) as file:  # what the file really holds
        assert sum(1 for _ in file.decode(video=0)) == frames
        assert float(file.streams.video[0].average_rate) == rate
    model, arguments = asked(name, [clips[clip]])
    sampled = len(set(taken(clip, arguments, model)))
    seconds = 2 / (sampled / (frames / rate))
    assert torch.as_tensor(arguments["second_per_grid_ts"]).tolist() == pytest.approx([seconds])
    (steps, _, _) = arguments["video_grid_thw"][0].tolist()
    ticks = model.pair.policy.model.config.vision_config.tokens_per_second
    assert temporal(model, arguments) == [
        sorted({int(step * seconds * ticks + 1e-6) for step in range(steps)})
    ]


def test_the_positions_of_the_four_second_clip_are_two_apart(asked, clips):
    """Spelled out: 8 frames of 4 seconds, 1 second a grid, 2 positions a second."""
    for name in ("qwen2_5_chat", "qwen2_5_simple"):
        model, arguments = asked(name, [clips["four_seconds"]])
        model.pair.policy.model.config.vision_config.tokens_per_second = 2
        assert temporal(model, arguments) == [[0, 2, 4, 6]]


@pytest.mark.parametrize("name", CLASSES)
def test_no_clip_is_asked_for_more_frames_than_it_has(asked, clips, name):
    for clip, (frames, _) in CLIPS.items():
        model, arguments = asked(name, [clips[clip]])
        found = taken(clip, arguments, model)
        assert len(found) <= max(2, min(MOST, frames + frames % 2)), clip
        assert found[0] == 0, clip
        assert abs(found[-1] - (frames - 1)) <= 1, clip
        assert found == sorted(found), clip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("order", [1, -1], ids=["short_first", "long_first"])
def test_a_batchs_clips_are_read_as_each_alone(asked, clips, name, order):
    chosen = ["seven", "long", "one", "four_seconds"][::order]
    _, together = asked(name, [clips[clip] for clip in chosen])
    rows = together["input_ids"]
    # A class may answer its batch in another order: rows are told apart by their grids' sizes.
    grids = together["video_grid_thw"].tolist()
    pixels = together["pixel_values_videos"].split([t * h * w for t, h, w in grids])
    assert len(rows) == len(grids) == len(chosen)
    for clip in chosen:
        _, alone = asked(name, [clips[clip]])
        matches = [
            number
            for number, (grid, values) in enumerate(zip(grids, pixels, strict=True))
            if grid == alone["video_grid_thw"][0].tolist()
            and torch.equal(values, alone["pixel_values_videos"])
        ]
        assert len(matches) == 1, clip
        (number,) = matches
        kept = together["attention_mask"][number].bool()
        assert rows[number][kept].tolist() == alone["input_ids"][0].tolist()
        if "second_per_grid_ts" in alone:
            assert together["second_per_grid_ts"][number] == alone["second_per_grid_ts"][0]


@pytest.mark.parametrize("name", ["qwen3_chat", "qwen3_simple"])
def test_qwen3s_time_stamps_are_the_clips(asked, clips, name):
    model, arguments = asked(name, [clips["slow"]])
    (text,) = model.tokenizer.batch_decode(arguments["input_ids"])
    frames = taken("slow", arguments, model)
    for first, second in zip(frames[::2], frames[1::2], strict=True):
        assert f"<{(first + second) / 2:.1f} seconds>" in text  # one frame a second


def test_a_document_of_two_clips_has_the_rate_of_each(asked, clips, tiny_pairs):
    model, _ = asked("qwen2_5_simple", [clips["one"]])
    content = [{"type": "video", "video": str(clips[name])} for name in ("slow", "four_seconds")]
    read = importlib.import_module("lmms_eval.models.simple.qwen2_5_vl").process_vision_info
    with opened(Session(model, looked_up=[("task", 0)])):
        _, videos = read([[{"role": "user", "content": content}]])
    assert [len(video) for video in videos] == [MOST, MOST]
    assert [clip["fps"] for clip in model.processor.clips] == [1, 4]
    assert [len(clip["frames_indices"]) for clip in model.processor.clips] == [MOST, MOST]


@pytest.mark.parametrize("broken", ["garbage", "hole"])
@pytest.mark.parametrize("name", ["qwen2_5_chat", "qwen2_5_simple"])
def test_strict_raises_for_a_broken_clip_and_names_it(asked, tmp_path, name, broken):
    file = media.broken_clips(tmp_path)[broken]
    model, _ = asked(name, [media.clip(tmp_path / "sound.mp4", 4, 2)])
    lax = model.settings
    model.settings = replace(lax, config=lax.config.model_copy(update={"strict": True}))
    try:
        with pytest.raises(UnreadableInput, match=rf"document 0 of task: {file}: "):
            asked(name, [file])
    finally:
        model.settings = lax


def test_strict_is_the_option(tiny_pairs):
    given = f"pretrained={tiny_pairs['qwen2_vl'].policy},{ARGUMENTS},replay_strict=true"
    model = models.Qwen2VLOnlyReplay.create_from_arg_string(given, {"device": "cpu"})
    with pytest.raises(UnreadableInput):
        unreadable.note(Session(model), ("task", 0), UnreadableInput("a clip"))


def test_a_side_longer_than_jpegs_is_told_where_the_class_sends_jpeg(asked, clips):
    """The simple Qwen2-VL class would log an error and answer without the picture."""
    wide = Image.new("RGB", (65_501, 400))
    for name, refuses in (("qwen2_simple", True), ("qwen3_simple", False), ("qwen2_5_chat", False)):
        model, _ = asked(name, [clips["two"]])
        with pytest.raises(UnreadableInput) if refuses else nullcontext():
            unreadable.check_for_class(model, wide)


def test_without_one_of_our_models_everything_is_upstreams(clips):
    assert current() is None
    element = {"video": str(clips["one"])}
    with pytest.raises(ValueError, match="nframes should in interval"):
        vision_process.smart_nframes(element, total_frames=1, video_fps=5)
    with pytest.raises(ValueError, match="absolute aspect ratio must be smaller than 200"):
        vision_process.smart_resize(10, 2010, 28)


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("smart_nframes", ["ele", "total_frames", "video_fps"]),
        ("smart_resize", ["height", "width", "factor", "min_pixels", "max_pixels"]),
        ("_read_video_torchvision", ["ele"]),
        (
            "process_vision_info",
            ["conversations", "return_video_kwargs", "return_video_metadata", "image_patch_size"],
        ),
    ],
)
def test_what_is_mended_of_qwen_vl_utils_is_as_the_mend_was_written_for(symbol, expected):
    function = inspect.unwrap(getattr(vision_process, symbol))
    assert list(inspect.signature(function).parameters) == expected, f"upstream changed {symbol}"


def test_upstream_still_has_what_is_mended():
    """Where one of these fails, a function of ``reading`` can go."""
    sources = {name: inspect.getsource(importlib.import_module(name)) for name in reading.MODULES}
    chat, _, qwen2, simple, _ = sources.values()
    assert "video_path = videos[0]" in chat, "the first clip's count for all"
    for source in (qwen2, simple):
        assert "video_metadata" not in source, "the rate is lost"
        assert "video_inputs[0] = " in source, "the first clip only is reduced"
    fetch = inspect.getsource(vision_process.fetch_video)
    assert 'VIDEO_READER_BACKENDS["torchvision"](ele)' in fetch, "the last resort"
    for name in reading.MODULES:
        assert "process_vision_info(" in sources[name], name
