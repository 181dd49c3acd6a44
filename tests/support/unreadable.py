"""Pictures and clips that no model can be shown, each broken in another way, and whole clips."""

import io
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from tests.support.media import hostile_clips, hostile_pictures


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    """Return a grey PNG."""
    file = io.BytesIO()
    Image.new(mode, (width, height), 1).save(file, format="PNG")
    return file.getvalue()


def noise(side: int = 60, kind: str = "JPEG") -> bytes:
    """Return a square of noise, which no format packs into a few bytes."""
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def broken_pictures() -> dict[str, bytes]:
    """Return kind → content; ``bomb`` is a valid PNG of 200 million pixels in 25 kB."""
    whole = png(56, 56)
    flat = bytearray(whole)
    flat[16:20] = bytes(4)  # the width in its header
    return {
        "empty": b"",
        "garbage": b"not a picture at all" * 9,
        "cut": noise()[:900],
        "cut_png": noise(kind="PNG")[:2000],
        "flat": bytes(flat),
        "bomb": png(20_000, 10_000, "1"),
        "long_drawn": png(4100, 20),
        "tall": png(3, 900),
        "thin": png(3920, 20),  # 196 to 1, whose height rounds to no patch at all
        "text_bomb": hostile_pictures()["text of 500 MB"],
    }


def write_clip(
    path: Path, frames: int, rate: float = 4.0, size: tuple[int, int] = (84, 56)
) -> Path:
    """Write an MP4 of moving noise."""
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    frame = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    for step in range(frames):
        out.write(np.roll(frame, 7 * step, axis=1))
    out.release()
    return path


def write_broken_clips(folder: Path) -> dict[str, Path]:
    """Write clips that cannot be read; return kind → path."""
    whole = write_clip(folder / "whole.mp4", 16).read_bytes()
    (folder / "whole.mp4").unlink()
    first, last = whole.find(b"mdat") + 8, whole.find(b"moov")
    damaged = bytearray(whole)
    damaged[first + (last - first) // 4 : last - 8] = bytes(last - 8 - first - (last - first) // 4)
    contents = {
        "empty": b"",
        "garbage": b"not a clip at all" * 50,
        "cut": whole[: len(whole) // 2],
        "damaged": bytes(damaged),  # its header is whole, most of its frames are not
    }
    for kind, content in contents.items():
        (folder / f"{kind}.mp4").write_bytes(content)
    write_clip(folder / "long_drawn.mp4", 8, size=(4400, 20))
    _write_sound(folder / "sound_only.mp4")
    kinds = [*contents, "long_drawn", "sound_only"]
    hostile = hostile_clips(folder)
    hostile["many frames"].rename(folder / "many_frames.mp4")
    hostile["large frames"].unlink()
    return {kind: folder / f"{kind}.mp4" for kind in [*kinds, "many_frames"]}


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        silence = np.zeros((1, 16384), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux([*stream.encode(frame), *stream.encode(None)])
