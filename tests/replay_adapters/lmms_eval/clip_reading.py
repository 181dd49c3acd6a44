"""Clips of many lengths and rates, and what each Qwen class makes of a batch of them."""

from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np

from replay_adapters.lmms_eval import models

MOST = 8
ARGUMENTS = (
    f"replay_method=none,dtype=float32,min_pixels=3136,max_pixels=12544,max_num_frames={MOST}"
)
CLASSES = {
    "qwen2_5_chat": ("qwen2_5_vl", models.Qwen25VLReplay),
    "qwen2_5_simple": ("qwen2_5_vl", models.Qwen25VLReplaySimple),
    "qwen2_simple": ("qwen2_vl", models.Qwen2VLOnlyReplay),
    "qwen3_chat": ("qwen3_vl", models.Qwen3VLReplay),
    "qwen3_simple": ("qwen3_vl", models.Qwen3VLReplaySimple),
}
# name → (frames, frames a second)
CLIPS = {
    "seven": (7, 30),
    "long": (200, 25),
    "four_seconds": (16, 4),
    "slow": (10, 1),
    "odd": (11, 6),
    "two": (2, 3),
    "one": (1, 5),
    "uneven": (12, 3.75),  # on average: see the fixture
}


def shaded(path: Path, frames: int, rate: int, *, slower: int | None = None) -> Path:
    """Write a clip whose frame k is flat, in a shade that rises from black to white with k.

    From frame ``slower`` on, frames last five times as long.
    """
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        for number in range(frames):
            shade = round(255 * number / max(1, frames - 1))
            picture = np.full((84, 112, 3), shade, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number + 4 * max(0, number - frames if slower is None else number - slower)
            frame.time_base = Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


class Request:
    """One of lmms-eval's requests, as far as the classes and the mixin look at it."""

    task_name, metadata = "task", MappingProxyType({})

    def __init__(self, number: int, arguments: tuple[Any, ...]) -> None:
        self.doc_id, self.arguments = number, arguments

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


class Stopped(Exception):
    """Ends the run once the batch has been seen."""
