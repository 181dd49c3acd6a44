"""How lmms-eval's Qwen classes read pictures and clips: row by row, each clip at its own rate.

Each function mends one defect of lmms-eval 0.7.3 or qwen-vl-utils 0.0.14, and passes through
unless one of our models is being evaluated.
"""

import copy
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from replay_adapters.lmms_eval.unreadable import note
from replay_adapters.media import UnreadableInput, told
from replay_adapters.session.session import Session, while_evaluating

_CHAT = "lmms_eval.models.chat."
_SIMPLE = "lmms_eval.models.simple."
MODULES = (
    *(f"{_CHAT}qwen2_5_vl", f"{_CHAT}qwen3_vl"),
    *(f"{_SIMPLE}qwen2_vl", f"{_SIMPLE}qwen2_5_vl", f"{_SIMPLE}qwen3_vl"),
)
READING_FIRST_FRAMES = (f"{_SIMPLE}qwen2_vl", f"{_SIMPLE}qwen2_5_vl")


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


def row_by_row(
    session: Session, original: Any, conversations: Any, *, module: str, **options: Any
) -> Any:
    """Stand in for the ``process_vision_info`` of a class's ``module``; read each row on its own.

    Upstream ends the run for one row's broken input. The chat Qwen2.5-VL class asks of every clip
    of a batch as many frames as the first one has; the simple Qwen2-VL and Qwen2.5-VL classes
    reduce only the first to ``max_num_frames``, and tell the processor no clip's rate, which then
    takes 24 frames a second: temporal positions of Qwen2.5-VL stand still.

    They also take two frames a second, of which they keep ``max_num_frames``; a pair whose protocol
    has a number of frames is given so many from the whole clip, as in the chat classes.
    """
    model = session.model
    asked = {**options, "return_video_kwargs": True, "return_video_metadata": True}
    images: list[Any] = []
    clips: list[Any] = []
    kwargs: dict[str, Any] = {}
    keys = session.looked_up[-len(conversations) :]
    published = model.settings.protocol.max_num_frames is not None
    for key, row in zip(keys, conversations, strict=True):
        if module == f"{_CHAT}qwen2_5_vl" or (module.startswith(_SIMPLE) and published):
            row = _own_counts(row, model.max_num_frames)
        try:
            seen, moving, kwargs = original([row], **asked)
        except UnreadableInput as error:
            note(session, key, _named(error, row))
            seen, moving, kwargs = original([_greyed(row)], **asked)
        images += seen or []
        clips += moving or []
    if options.get("return_video_metadata"):
        return images or None, clips or None, kwargs
    clips = [_reduced(*clip, model.max_num_frames) for clip in clips]
    if isinstance(model.processor, Rated):
        model.processor.clips = [metadata for _, metadata in clips]
    return images or None, [frames for frames, _ in clips] or None


def own_frame_counts(
    session: Session, original: Any, ele: dict[str, Any], total_frames: int, video_fps: float
) -> int:
    """Stand in for ``smart_nframes``; ask no clip for more frames than it has.

    Upstream rounds to even numbers beyond a clip's end and refuses a clip of one frame, which the
    processors take: they repeat its last frame where one is missing.
    """
    if total_frames == 1:
        return 1
    if "nframes" in ele:
        ele = {**ele, "nframes": min(ele["nframes"], total_frames // 2 * 2)}
    return int(original(ele, total_frames=total_frames, video_fps=video_fps))


def named_sizes(
    session: Session, original: Any, height: int, width: int, *rest: Any, **more: Any
) -> tuple[int, int]:
    """Stand in for ``smart_resize``; say by name which sizes cannot be answered.

    Upstream raises a bare ValueError above 200:1, and may round a side to 0 or the ratio to more
    than 200:1, which the processor of Qwen2-VL and Qwen2.5-VL then refuses.
    """
    long = UnreadableInput(f"{width} by {height} pixels are drawn out too long to be shown")
    if _ratio(height, width) > 200:
        raise long
    size: tuple[int, int] = original(height, width, *rest, **more)
    again = session.model.parent_name != "qwen3_vl"  # which does not let its processor resize
    if 0 in size or (again and _ratio(*size) > 200):
        raise long
    return size


def no_last_resort(session: Session, original: Any, ele: dict[str, Any]) -> Any:
    """Stand in for the reader that qwen-vl-utils falls back to when its own one fails.

    It holds the whole clip in memory and passes the beginning of a broken one for the whole.
    Recent torchvision has it no more, so that an AttributeError would hide what was wrong.
    """
    import decord

    failed = sys.exc_info()[1]
    if failed is None:  # it is the reader of choice
        return original(ele)
    if isinstance(failed, decord.DECORDError | RuntimeError | ValueError):
        raise UnreadableInput(told(failed)) from failed
    raise failed


def no_first_frames(decord: Any) -> Any:
    """Stand in for a class's ``decord``; decode no frame to learn a size that is not used.

    The simple Qwen2-VL and Qwen2.5-VL classes read a clip's first frame. Of a clip with a hole
    decord fails there now and then, which would end the run; the clip is read row by row later.
    """

    def opened(session: Session, original: Any, path: str) -> Any:
        return _Opened(original(path))

    return SimpleNamespace(VideoReader=while_evaluating(opened)(decord.VideoReader))


class _Opened:
    """A clip of which nothing but its length is known."""

    def __init__(self, clip: Any) -> None:
        self._clip = clip

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, frame: int) -> Any:
        return SimpleNamespace(asnumpy=lambda: np.zeros((1, 1, 3), dtype=np.uint8))


def _own_counts(row: Any, most: int) -> Any:
    """Return a conversation whose clips are each asked for ``most`` frames, an even number.

    Not those that are read at a rate.
    """
    row, asked = copy.copy(row), {"nframes": max(2, most // 2 * 2)}
    for number, message in enumerate(row):
        if isinstance(message["content"], list):
            content = [
                {**part, **asked} if part["type"] == "video" and "fps" not in part else part
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
