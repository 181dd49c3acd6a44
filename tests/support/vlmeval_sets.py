"""Sets of VLMEvalKit made on the spot: questions with options about pictures and about clips."""

import base64
import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tests.support import tiny

OPTIONS = {"A": "one", "B": "two", "C": "three", "D": "none"}


def make_pictures(data: Path, name: str = "pictures", count: int = 12) -> list[int]:
    """Write ``data/name.tsv``, a set with PNG images of three sizes; return its indices.

    They are neither contiguous nor sorted, so that a sample's number cannot pass for its index.
    """
    indices = [(17 * number) % 101 + 3 for number in range(count)]
    rows = []
    for number, index in enumerate(indices):
        picture = io.BytesIO()
        tiny.pictures(number)[number % 3].save(picture, format="PNG")
        rows.append(
            {
                "index": index,
                "image": base64.b64encode(picture.getvalue()).decode(),
                "question": f"How many circles are in picture {number}?",
                **OPTIONS,
                "answer": "ABCD"[number % 4],
            }
        )
    data.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(data / f"{name}.tsv", sep="\t", index=False)
    return indices


def make_clips(folder: Path, count: int = 6) -> None:
    """Write MP4 clips and their questions as the harness keeps the set Video_Holmes."""
    (folder / "video").mkdir(parents=True)
    rows = []
    for index in range(count):
        path = folder / "video" / f"clip{index}.mp4"
        size = (84, 56) if index % 2 else (56, 112)
        out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 4, size)
        rng = np.random.default_rng(index)
        frame = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        for step in range(8):
            out.write(np.roll(frame, 7 * step, axis=1))
        out.release()
        rows.append(
            {
                "index": index,
                "video": f"clip{index}",
                "video_path": f"./video/clip{index}.mp4",
                "candidates": [f"{letter}. {text}" for letter, text in OPTIONS.items()],
                "question": f"What moves in clip {index}?",
                "answer": "ABCD"[index % 4],
                "question_id": index,
                "question_type": "SR",
                "explanation": "",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "Video_Holmes.tsv", sep="\t", index=False)
