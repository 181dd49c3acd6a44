"""A task of three drawn videos: real mp4 files, which the harness samples and decodes itself."""

import os
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES, RATE, WIDTH, HEIGHT = 16, 4, 112, 84


def doc_to_visual(doc: dict[str, Any]) -> list[str]:
    """Return the path of the document's video, which is drawn where it is missing."""
    path = Path(tempfile.gettempdir()) / f"replay_test_clip_{doc['seed']}.mp4"
    if not path.exists():
        part = path.with_name(f"{os.getpid()}_{path.name}")
        draw(part, doc["seed"])
        part.replace(path)
    return [str(path)]


def draw(path: Path, seed: int) -> None:
    """Write a video in which a bright square crosses a noisy picture."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 160, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            picture = ground.copy()
            left = number * (WIDTH - 20) // FRAMES
            picture[20 + 10 * seed : 40 + 10 * seed, left : left + 20] = 250
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str]) -> str:
    """Return the question, with the prompt that the task keeps for the model's name in front."""
    return lmms_eval_specific_kwargs["pre_prompt"] + doc["question"]
