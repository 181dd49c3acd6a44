"""How lmms-eval's Qwen classes read pictures and clips: row by row, each clip at its own rate.

Each function mends one defect of lmms-eval 0.7.3 or qwen-vl-utils 0.0.14, and passes through
unless one of our models is being evaluated.
"""

import copy
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from replay_adapters.media import UnreadableInput, told

_CHAT = "lmms_eval.models.chat."
_SIMPLE = "lmms_eval.models.simple."
MODULES = (
    *(f"{_CHAT}qwen2_5_vl", f"{_CHAT}qwen3_vl"),
    *(f"{_SIMPLE}qwen2_vl", f"{_SIMPLE}qwen2_5_vl", f"{_SIMPLE}qwen3_vl"),
)

# libjpeg's longest side; the simple Qwen2-VL and Qwen2.5-VL classes send every picture through it.
_JPEG_SIDE = 65500

Current = Callable[[], Any]  # returns our model that is being evaluated, or None
Wrap = Callable[[Any], Any]


class Rated:
    """A processor that is told the rates of the clips it is given, once they are known."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.clips: list[dict[str, Any]] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return the processor's output."""
        clips, self.clips = self.clips, []
        if options.get("videos") is not None:
            options |= {"video_metadata": clips, "do_sample_frames": False}
        return self._processor(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def check_for_class(model: Any, visual: Any) -> None:
    """Raise UnreadableInput where a simple class cannot read a picture or a clip's path.

    PIL and PyAV may: these classes open clips with decord, and send pictures as JPEG.
    """
    import decord

    if not model.is_simple:
        return
    if isinstance(visual, Image.Image):
        if hasattr(model, "_encode_image_data_url") and max(visual.size) > _JPEG_SIDE:
            raise UnreadableInput(
                f"an image: a side of {max(visual.size)} pixels is longer than the "
                f"{_JPEG_SIDE} that JPEG has, in which this class sends pictures"
            )
    else:
        try:
            decord.VideoReader(visual)[0]
        except (decord.DECORDError, RuntimeError) as error:
            raise UnreadableInput(f"{visual}: {told(error)}") from error


def row_by_row(current: Current, module: str) -> Wrap:
    """Return a wrap of a class's ``process_vision_info`` that reads each row on its own.

    Upstream ends the run for one row's broken input. The chat Qwen2.5-VL class asks of every clip
    of a batch as many frames as the first one has; the simple Qwen2-VL and Qwen2.5-VL classes
    reduce only the first to ``max_num_frames``, and tell the processor no clip's rate, which then
    takes 24 frames a second: temporal positions of Qwen2.5-VL stand still.
    """

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def process(conversations: Any, **options: Any) -> Any:
            model = current()
            if model is None:
                return original(conversations, **options)
            asked = {**options, "return_video_kwargs": True, "return_video_metadata": True}
            images: list[Any] = []
            clips: list[Any] = []
            kwargs: dict[str, Any] = {}
            for key, row in zip(
                model.unreadable.rows(len(conversations)), conversations, strict=True
            ):
                if module == f"{_CHAT}qwen2_5_vl":
                    row = _own_counts(row, model.max_num_frames)
                try:
                    seen, moving, kwargs = original([row], **asked)
                except UnreadableInput as error:
                    model.unreadable.note(key, _named(error, row))
                    seen, moving, kwargs = original([_greyed(row)], **asked)
                images += seen or []
                clips += moving or []
            if options.get("return_video_metadata"):
                return images or None, clips or None, kwargs
            clips = [_reduced(*clip, model.max_num_frames) for clip in clips]
            if isinstance(model.processor, Rated):
                model.processor.clips = [metadata for _, metadata in clips]
            return images or None, [frames for frames, _ in clips] or None

        return process

    return wrap


def own_frame_counts(current: Current) -> Wrap:
    """Return a wrap of ``smart_nframes`` that asks no clip for more frames than it has.

    Upstream rounds to even numbers beyond a clip's end and refuses a clip of one frame, which the
    processors take: they repeat its last frame where one is missing.
    """

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def smart_nframes(ele: dict[str, Any], total_frames: int, video_fps: float) -> int:
            if current() is None:
                return int(original(ele, total_frames=total_frames, video_fps=video_fps))
            if total_frames == 1:
                return 1
            if "nframes" in ele:
                ele = {**ele, "nframes": min(ele["nframes"], total_frames // 2 * 2)}
            return int(original(ele, total_frames=total_frames, video_fps=video_fps))

        return smart_nframes

    return wrap


def named_sizes(current: Current) -> Wrap:
    """Return a wrap of ``smart_resize`` that says by name which sizes cannot be answered.

    Upstream raises a bare ValueError above 200:1, and may round a side to 0 or the ratio to more
    than 200:1, which the processor of Qwen2-VL and Qwen2.5-VL then refuses.
    """

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def smart_resize(height: int, width: int, *rest: Any, **more: Any) -> tuple[int, int]:
            model = current()
            if model is None:
                return original(height, width, *rest, **more)  # type: ignore[no-any-return]
            long = UnreadableInput(f"{width} by {height} pixels are drawn out too long to be shown")
            if _ratio(height, width) > 200:
                raise long
            size = original(height, width, *rest, **more)
            again = model.parent_name != "qwen3_vl"  # which does not let its processor resize
            if 0 in size or (again and _ratio(*size) > 200):
                raise long
            return size  # type: ignore[no-any-return]

        return smart_resize

    return wrap


def no_last_resort(current: Current) -> Wrap:
    """Return a wrap of the reader that qwen-vl-utils falls back to when its own one fails.

    It holds the whole clip in memory and passes the beginning of a broken one for the whole.
    Recent torchvision has it no more, so that an AttributeError would hide what was wrong.
    """
    import decord

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def read(ele: dict[str, Any]) -> Any:
            failed = sys.exc_info()[1]
            if current() is None or failed is None:  # passed through, or the reader of choice
                return original(ele)
            if isinstance(failed, decord.DECORDError | RuntimeError | ValueError):
                raise UnreadableInput(told(failed)) from failed
            raise failed

        return read

    return wrap


def install(current: Current, once: Callable[[Any, str, Wrap], None]) -> None:
    """Put the mends in place; ``once(owner, name, wrap)`` replaces a name the first time only."""
    from qwen_vl_utils import vision_process

    once(vision_process, "smart_nframes", own_frame_counts(current))
    once(vision_process, "smart_resize", named_sizes(current))
    readers = vision_process.VIDEO_READER_BACKENDS
    readers["torchvision"] = no_last_resort(current)(vision_process._read_video_torchvision)
    for name in MODULES:
        once(importlib.import_module(name), "process_vision_info", row_by_row(current, name))


def _own_counts(row: Any, most: int) -> Any:
    """Return a conversation whose clips are each asked for ``most`` frames, an even number."""
    row = copy.copy(row)
    for number, message in enumerate(row):
        if isinstance(message["content"], list):
            content = [
                {**part, "nframes": max(2, most // 2 * 2)} if "nframes" in part else part
                for part in message["content"]
            ]
            row[number] = {**message, "content": content}
    return row


def _greyed(row: Any) -> Any:
    """Return a conversation with as many pictures and clips, all of them small and grey."""
    grey = Image.new("RGB", (64, 64), "grey")
    stand_ins = {"image": {"image": grey}, "video": {"video": [grey, grey]}}
    greyed = []
    for message in row:
        content = message["content"]
        if isinstance(content, list):
            content = [{**stand_ins.get(p["type"], p), "type": p["type"]} for p in content]
        greyed.append({**message, "content": content})
    return greyed


def _named(error: UnreadableInput, row: Any) -> UnreadableInput:
    """Return the error with the files of the conversation's clips in front."""
    parts = [p for m in row if isinstance(m["content"], list) for p in m["content"]]
    files = [p["video"] for p in parts if isinstance(p.get("video"), str)]
    return UnreadableInput(f"{', '.join(files) or 'an image'}: {error}")


def _reduced(frames: Any, metadata: dict[str, Any], most: int) -> tuple[Any, dict[str, Any]]:
    """Return a clip of at most ``most`` frames, chosen as the simple classes choose them."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, most, dtype=int)).tolist()
    indices = [int(metadata["frames_indices"][number]) for number in chosen]
    return frames[chosen], {**metadata, "frames_indices": indices}


def _ratio(height: int, width: int) -> float:
    return max(height, width) / min(height, width)
