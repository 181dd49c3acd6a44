"""The `replay_clips` task: which way round a shape jumps, in clips of eight frames.

A shape stands in one of the four corners and jumps once to a corner beside it. Whether that is
clockwise no single frame tells, and no set of frames without their order: each corner is left
equally often in either way, and of two corners either comes first equally often. The clips are mp4
files in `clips/`; running this file writes them. One file on purpose, as `replay_demo.py` says.
"""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location(
    "replay_demo_scenes", FOLDER.parent / "replay_demo" / "replay_demo.py"
)
assert _spec is not None
assert _spec.loader is not None
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

FRAMES, RATE = 8, 4  # a second has four frames
SIZE = 2 * demo.CELL  # pixels of a frame's side: 2 x 2 visual tokens for each two frames
# Clockwise, from where a row and a column of `demo.CELL` pixels have the number (row, column).
CORNERS = {"top-left": (0, 0), "top-right": (0, 1), "bottom-right": (1, 1), "bottom-left": (1, 0)}
NAMES = tuple(CORNERS)
WAYS = ("clockwise", "anticlockwise")
LETTERS = "AB"
JUMPS = (2, 4, 6)  # frames from which on the shape may stand in its second corner
QUESTION = "Which way round does the shape jump?"
# Range of a shape's opacity, even on a logarithmic scale: the faintest can only be guessed at.
STRENGTH = (0.01, 0.6)
SHIFT = 2  # pixels by which a shape may stand beside the middle of its corner
# The background is lit from two sides: a model this small knows by it where it looks.
LIGHT = 60.0
SPLITS = {"test": (314159, 240, 0), "dev": (271828, 80, 1)}  # seed, number of clips, fold
NOISE = (0.5, 2.0)  # range of the per-clip standard deviation, in 8-bit pixel values


class Clip(NamedTuple):
    """One clip, before pixel noise.

    Attributes:
        content: 1 + 3 * colour + shape.
        start: number of the first corner.
        way: 0 for clockwise, 1 for anticlockwise.
        jump: the first frame in the second corner.
        strength: opacity of the shape.
    """

    content: int
    start: int
    way: int
    jump: int
    strength: float

    @property
    def fold(self) -> int:
        """Which of `demo.FOLDS` the clip belongs to; the same for the clip played backwards."""
        corners = sorted((self.start, self.end))
        held = min(self.jump, FRAMES - self.jump)
        mixed = 31 * self.content + 7 * corners[0] + 3 * corners[1] + 5 * held
        return (mixed + int(1000 * self.strength)) % demo.FOLDS

    @property
    def end(self) -> int:
        """Number of the second corner."""
        return (self.start + (1, -1)[self.way]) % len(NAMES)

    def corners(self) -> list[int]:
        """Number of the corner at each frame."""
        return [self.start] * self.jump + [self.end] * (FRAMES - self.jump)


def sample_clips(rng: np.random.Generator, n: int, folds: tuple[int, ...]) -> list[Clip]:
    """Draw n clips that lie in `folds`."""
    clips: list[Clip] = []
    kinds = len(demo.COLOURS) * len(demo.SHAPES)
    while len(clips) < n:
        start, way = int(rng.integers(len(NAMES))), int(rng.integers(len(WAYS)))
        jump, strength = int(rng.choice(JUMPS)), float(np.exp(rng.uniform(*np.log(STRENGTH))))
        clip = Clip(1 + int(rng.integers(kinds)), start, way, jump, strength)
        if clip.fold in folds:
            clips.append(clip)
    return clips


def _light() -> np.ndarray:
    """(56, 56, 3) the background: redder to the right, greener below."""
    ramp = np.linspace(-LIGHT, LIGHT, SIZE, dtype=np.float32)
    across, down = np.tile(ramp, (SIZE, 1)), np.tile(ramp[:, None], (1, SIZE))
    return demo.BACKGROUND + np.stack([across, down, -(across + down) / 2], -1)


_BACKGROUND = _light()


def render(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """(8, 56, 56, 3) uint8 frames; the shape's exact places and the noise are from `rng`."""
    colour, shape = divmod(clip.content - 1, len(demo.SHAPES))
    paint = np.array(list(demo.COLOURS.values())[colour], dtype=np.float32)
    stencil = demo._MASKS[1 + shape]
    frames = np.repeat(_BACKGROUND[None], FRAMES, 0)
    shifts = rng.integers(-SHIFT, SHIFT + 1, size=(len(NAMES), 2))
    for frame, corner in zip(frames, clip.corners(), strict=True):
        row, column = CORNERS[NAMES[corner]]
        opacity = np.zeros((SIZE, SIZE, 1), dtype=np.float32)
        top, left = demo.CELL * row, demo.CELL * column
        moved = np.roll(stencil, tuple(shifts[corner]), (0, 1))
        opacity[top : top + demo.CELL, left : left + demo.CELL, 0] = clip.strength * moved
        frame += opacity * (paint - frame)
    frames += rng.uniform(*NOISE) * rng.standard_normal(frames.shape, dtype=np.float32)
    return frames.round().clip(0, 255).astype(np.uint8)


def encoded(frames: np.ndarray) -> bytes:
    """Frames as an mp4 file (H.264)."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": "28", "g": "1", "threads": "1"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def make_clips(split: str) -> None:
    """Write a held-out split: its clips, and `SPLIT.jsonl` beside them."""
    seed, count, fold = SPLITS[split]
    rng = np.random.default_rng(seed)
    (FOLDER / "clips").mkdir(exist_ok=True)
    docs = []
    for index, clip in enumerate(sample_clips(rng, count, (fold,))):
        name = f"{split}-{index:04d}"
        (FOLDER / "clips" / f"{name}.mp4").write_bytes(encoded(render(clip, rng)))
        docs.append(
            {
                "question_id": name,
                "video": f"clips/{name}.mp4",
                "question": QUESTION,
                "options": list(WAYS),
                "answer": LETTERS[clip.way],
                "corners": [NAMES[clip.start], NAMES[clip.end]],
            }
        )
    lines = [json.dumps(doc) + "\n" for doc in docs]
    (FOLDER / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def doc_to_visual(doc: dict[str, Any]) -> list[str]:
    """The path of the document's clip."""
    return [str(FOLDER / doc["video"])]


def doc_to_text(doc: dict[str, Any]) -> str:
    """The question and its options, as Video-R1's sets are asked."""
    from replay_adapters.settings.questions import with_options

    return with_options(doc["question"], doc["options"])


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score one response, of which the answer's letter is compared; the task has the mean."""
    said = results[0].rpartition("<answer>")[2].partition("</answer>")[0]
    return {"accuracy": float(said.strip() == doc["answer"])}


if __name__ == "__main__":
    for name in SPLITS:
        make_clips(name)
