"""What a prompt's pictures and clips are read as, and which of them cannot be read.

VLMEvalKit decodes pictures while it builds a prompt; its Qwen classes read pictures and clips
through qwen-vl-utils. One that cannot be read is its sample's outcome: :class:`UnreadableInput`.
"""

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image

from replay_adapters.media import (
    PIXEL_LIMIT,
    UnreadableInput,
    check_header,
    check_picture,
    is_fault,
    told,
)


class UnreadPrompt(list[dict[str, Any]]):
    """Stands for the prompt of a row whose picture or clip could not be read."""

    def __init__(self, fault: UnreadableInput) -> None:
        super().__init__([{"type": "text", "value": str(fault)}])
        self.fault = fault


@contextlib.contextmanager
def pixel_limit() -> Iterator[None]:
    """Refuse decompression bombs as PIL does; upstream lets a picture have 2e9 pixels."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, PIXEL_LIMIT
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def built(build: Callable[..., Any], row: Any, *given: Any, **more: Any) -> Any:
    """Return the prompt that ``build(*given, **more)`` makes of a row, or an UnreadPrompt.

    An exception stays one unless the row's picture or clip is what cannot be read.
    """
    try:
        with pixel_limit():
            return build(*given, **more)
    except Exception as error:
        fault = _fault_of_row(row, error)
        if fault is None:
            raise
        return UnreadPrompt(UnreadableInput(f"index {row['index']}: {fault}"))


def check_present(message: list[dict[str, Any]]) -> None:
    """Raise UnreadableInput for a picture or clip that is no file, and for a hostile header.

    Upstream says nothing of the one, and takes memory for the other.
    """
    for part in message:
        value = part["value"] if part.get("type") in ("image", "video") else None
        if isinstance(value, str) and not urlparse(value).scheme:
            if not Path(value).is_file():
                raise UnreadableInput(f"{value}: there is no such file")
            if part["type"] == "video":
                check_header(value)


class Reading:
    """Reads for the harness's classes, noting what a prompt's pictures and clips are.

    ``clips`` are the clips' frames and rates (``fps``, ``frames_indices``, ``total_num_frames``),
    ``pictures`` the pictures' names, each in the prompt's order.
    """

    def __init__(self) -> None:
        self.clips: list[dict[str, Any]] = []
        self.pictures: list[str] = []
        self._open = False

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Let qwen-vl-utils note what it reads, name what it cannot, and take single frames.

        Inside another scope there is nothing left to do.
        """
        if self._open:
            yield
            return
        from qwen_vl_utils import vision_process as reader

        fetch_image, fetch_video = reader.fetch_image, reader.fetch_video
        smart_nframes = reader.smart_nframes

        def picture(element: dict[str, Any], *rest: Any, **more: Any) -> Any:
            name = _name(element.get("image", element.get("image_url")))
            try:
                read = fetch_image(element, *rest, **more)
            except Exception as error:
                if not _of_the_picture(error):
                    raise
                raise UnreadableInput(f"{name}: {told(error)}") from error
            self.pictures.append(name)
            return read

        def clip(
            element: dict[str, Any], *rest: Any, return_video_metadata: bool = False, **more: Any
        ) -> Any:
            try:
                read = fetch_video(element, *rest, return_video_metadata=True, **more)
            except UnreadableInput:  # one of the frames, where frames were given
                raise
            except Exception as error:
                fault = clip_fault(element["video"])
                if fault is None:
                    raise
                raise UnreadableInput(f"{_name(element['video'])}: {fault}") from error
            rated = more.get("return_video_sample_fps", False)
            frames, metadata = read[0] if rated else read
            self.clips.append(metadata)
            kept = (frames, metadata) if return_video_metadata else frames
            return (kept, read[1]) if rated else kept

        def frames(element: dict[str, Any], total_frames: int, video_fps: float) -> int:
            if total_frames == 1:  # upstream refuses it, and the processors repeat its frame
                return 1
            return int(smart_nframes(element, total_frames=total_frames, video_fps=video_fps))

        reader.fetch_image, reader.fetch_video = picture, clip
        reader.smart_nframes = frames
        self._open = True
        try:
            with pixel_limit():
                yield
        finally:
            reader.fetch_image, reader.fetch_video = fetch_image, fetch_video
            reader.smart_nframes = smart_nframes
            self._open = False
            self.clips.clear()
            self.pictures.clear()

    def process(self, processor: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Return what a processor makes of what was read, the clips with their rates.

        Upstream's Qwen2VLChat leaves the rates out, and the processor of Qwen2.5-VL takes every
        clip for one of 24 frames a second. Qwen3VLChat hands them on itself.
        """
        clips, pictures = self.clips.copy(), self.pictures.copy()
        self.clips.clear()
        self.pictures.clear()
        if options.get("videos") and "video_metadata" not in options:
            options |= {"video_metadata": clips, "do_sample_frames": False}
        try:
            return processor(*given, **options)
        except ValueError as error:
            # Rounding to whole patches can lengthen a picture beyond what the processor takes.
            for name, image in zip(pictures, options.get("images") or (), strict=False):
                if _long_drawn(image.size):
                    raise UnreadableInput(f"{name}: {told(error)}") from error
            raise


def clip_fault(source: Any) -> str | None:
    """Return why a clip cannot be read; None where it can, or is not a file.

    Decodes one frame at a time. qwen-vl-utils falls back to a reader that torchvision has removed,
    so that its own exception tells nothing.
    """
    import decord

    if not isinstance(source, str):
        return None
    try:
        clip = decord.VideoReader(source.removeprefix("file://"))
        height, width, _ = clip.next().shape
        for _ in range(len(clip) - 1):
            clip.next()
    except (decord.DECORDError, RuntimeError, StopIteration) as error:
        return told(error)
    if _long_drawn((width, height)):
        return f"its frames of {width} by {height} pixels are drawn out too long"
    return None


def _of_the_picture(error: Exception) -> bool:
    """Whether reading and resizing a picture has failed for what the picture is.

    A ValueError is qwen-vl-utils' of one that is drawn out too long, or PIL's of broken content.
    """
    return is_fault(error) or isinstance(error, ValueError | ZeroDivisionError)


def _fault_of_row(row: Any, error: Exception) -> str | None:
    """Return which input of a row cannot be read, if that is what ``error`` came from."""
    import decord

    cells = row.get("image", [])
    for cell in cells if isinstance(cells, list) else [cells]:
        try:
            with pixel_limit(), Image.open(io.BytesIO(base64.b64decode(str(cell)))) as picture:
                check_picture(picture)
        except UnreadableInput as fault:
            return str(fault)
        except Exception as fault:
            if not _of_the_picture(fault):
                raise
            return f"an image: {told(fault)}"
    unopened = isinstance(error, RuntimeError) and str(error).startswith("Error reading")
    if isinstance(error, decord.DECORDError) or unopened:
        return f"clip {row.get('video')}: {told(error)}"
    return None


def _long_drawn(size: tuple[int, int]) -> bool:
    from qwen_vl_utils.vision_process import MAX_RATIO

    return max(size) > MAX_RATIO * min(size)


def _name(source: Any) -> str:
    """Return what an input is called: its file, where it is one."""
    if not isinstance(source, str) or source.startswith("data:"):
        return "a picture in the prompt"
    return source.removeprefix("file://")
