"""The `replay_zoom` task: a pattern so fine that it can only be seen by zooming in.

A picture of 448 x 448 pixels holds one coloured object, with stripes or
checks of two pixels' width. A model is shown it at 112 x 112, where the patterns are grey: it must
find the object, call `image_zoom_in_tool` with its box, and read the
pattern from the crop. One file on purpose, as `replay_demo.py` beside it says.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from datasets import Dataset

_DEMO = Path(__file__).resolve().parents[1] / "replay_demo" / "replay_demo.py"
_spec = importlib.util.spec_from_file_location("replay_demo_scenes", _DEMO)
assert _spec is not None
assert _spec.loader is not None
demo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo)

SCALE = 4  # the picture's pixels for one that the model is shown, along each side
CELL = SCALE * demo.CELL
SIZE = SCALE * demo.SIZE
PATTERNS = ("horizontal", "vertical", "checked")
# Two pixels light, two dark: a pixel of the shown picture is the mean of a whole period.
PERIOD = 4
CONTRAST = 45.0
# The background is lit from two sides: a model this small knows by it where it looks.
LIGHT = 60.0
NOISE = (5.0, 20.0)  # range of the per-image standard deviation, in 8-bit pixel values


class Scene(NamedTuple):
    """One scene, before pixel noise.

    Attributes:
        contents: (4, 4) integers: 0 for an empty cell, else 1 + 3 * colour + shape.
        patterns: (4, 4) integers: which of `PATTERNS` an object in the cell has.
    """

    contents: np.ndarray
    patterns: np.ndarray

    def cell(self, content: int) -> tuple[int, int]:
        """Row and column of an object."""
        row, column = np.argwhere(self.contents == content)[0]
        return int(row), int(column)


def sample_scenes(rng: np.random.Generator, n: int, folds: tuple[int, ...]) -> list[Scene]:
    """Draw n scenes whose grids lie in `folds`."""
    scenes: list[Scene] = []
    cells, kinds = demo.GRID**2, len(demo.COLOURS) * len(demo.SHAPES)
    while len(scenes) < n:
        contents = np.zeros(cells, dtype=np.int64)
        contents[rng.integers(cells)] = 1 + rng.integers(kinds)
        grid = contents.reshape(demo.GRID, demo.GRID)
        if demo.fold_of(grid[None])[0] in folds:
            patterns = rng.integers(len(PATTERNS), size=grid.shape)
            scenes.append(Scene(grid, patterns))
    return scenes


def _stencils() -> np.ndarray:
    """(1 + shapes, 112, 112) stencils of the shapes at full size; the first is all zero."""
    return np.kron(demo._MASKS, np.ones((1, SCALE, SCALE), dtype=np.float32))


_MASKS = _stencils()


def _waves() -> np.ndarray:
    """(patterns, 448, 448) stripes and checks of -1 and 1."""
    wave = np.where(np.arange(SIZE) % PERIOD < PERIOD // 2, 1.0, -1.0).astype(np.float32)
    across, down = np.tile(wave, (SIZE, 1)), np.tile(wave[:, None], (1, SIZE))
    return np.stack([down, across, across * down])


_WAVES = _waves()


def _light() -> np.ndarray:
    """(448, 448, 3) what the background adds to grey: redder to the right, greener below."""
    ramp = np.linspace(-LIGHT, LIGHT, SIZE, dtype=np.float32)
    across, down = np.tile(ramp, (SIZE, 1)), np.tile(ramp[:, None], (1, SIZE))
    return np.stack([across, down, -(across + down) / 2], -1)


_LIGHT = _light()


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A picture of 448 x 448 pixels, with pixel noise and the patterns' phase from `rng`."""
    mask = _spread(_MASKS[np.where(scene.contents > 0, 1 + (scene.contents - 1) % 3, 0)])
    colours = np.array(list(demo.COLOURS.values()), dtype=np.float32) - demo.BACKGROUND
    paint = colours[np.maximum(scene.contents - 1, 0) // len(demo.SHAPES)]
    waves = np.roll(_WAVES, tuple(rng.integers(PERIOD, size=2)), axis=(1, 2))
    chosen = np.kron(scene.patterns, np.ones((CELL, CELL), dtype=np.int64))
    wave = CONTRAST * np.take_along_axis(waves, chosen[None], 0)[0]
    painted = np.kron(paint, np.ones((CELL, CELL, 1))) + wave[..., None]
    pixels = demo.BACKGROUND + (1 - mask[..., None]) * _LIGHT + mask[..., None] * painted
    pixels += rng.uniform(*NOISE) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _spread(cells: np.ndarray) -> np.ndarray:
    """(448, 448) from (4, 4, 112, 112)."""
    return cells.transpose(0, 2, 1, 3).reshape(SIZE, SIZE)


def shown_box(row: int, column: int) -> tuple[int, int, int, int]:
    """The box of a cell in the picture as it is shown: left, top, right, bottom."""
    side = demo.CELL
    return column * side, row * side, (column + 1) * side, (row + 1) * side


def question_of(content: int) -> str:
    """What is asked of the object."""
    return "What pattern is on the shape?"


def split_docs(split: str, seed: int, count: int, fold: int) -> list[dict[str, Any]]:
    """The documents of a held-out split, the same on every machine."""
    rng = np.random.default_rng(seed)
    docs = []
    for index, scene in enumerate(sample_scenes(rng, count, (fold,))):
        content = int(rng.choice(scene.contents[scene.contents > 0]))
        row, column = scene.cell(content)
        docs.append(
            {
                "question_id": f"{split}-{index:04d}",
                "image": render(scene, rng),
                "question": question_of(content),
                "answer": PATTERNS[scene.patterns[row, column]],
                "box": list(shown_box(row, column)),
            }
        )
    return docs


def process_docs(dataset: Dataset) -> Dataset:
    """Turn a split file's single row (split, seed, count, fold) into the rendered documents."""
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "question_id": text,
            "image": datasets.Image(),
            "question": text,
            "answer": text,
            "box": [datasets.Value("int64")],
        }
    )
    docs = [doc for spec in dataset for doc in split_docs(**spec)]
    return datasets.Dataset.from_list(docs, features=features)


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The document's picture, in RGB."""
    return [doc["image"].convert("RGB")]


def doc_to_messages(
    doc: dict[str, Any],
    round_idx: int | None = None,
    previous_output: list[str] | None = None,
    previous_round_info: Any = None,
) -> Any:
    """The next messages of a conversation about the picture."""
    from replay_adapters.agents.asking import asking
    from replay_adapters.agents.conversation import Conversation, next_messages

    protocol, limits = asking("demo_agent")
    opened = Conversation.open(doc["question"], protocol, limits)
    return next_messages(
        opened, lambda: doc_to_visual(doc)[0], previous_output, previous_round_info
    )


def process_results(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Score a conversation's last answer, and whether a tool was called; the task has the means."""
    from replay_adapters.agents.asking import last_answer

    texts = results[0] if isinstance(results[0], list) else [results[0]]
    return {
        "accuracy": float(last_answer(texts) == doc["answer"]),
        "zoomed": float(len(texts) > 1),
    }
