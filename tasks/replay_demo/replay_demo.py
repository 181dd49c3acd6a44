"""The `replay_demo` task: questions about noisy 4x4 grids of coloured shapes.

One file on purpose: lmms-eval loads `!function` targets by path, outside any package, so this
module can import no sibling and hold no dataclass (those look up `sys.modules`). The training
script of the demo pair loads it the same way and draws its scenes from here.

Every object blends into another colour and another shape by a random share, and every image is
noisy. What an object shows, the name it has can only be guessed from, so no reader of these images
can be right every time, and what a model believes about a cell is more or less certain: the spread
of certainty that Activation Replay selects on.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from datasets import Dataset

GRID = 4
CELL = 28  # pixels: one merged visual token of Qwen2.5-VL (2 x 2 patches of 14)
SIZE = GRID * CELL
COLOURS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (41, 98, 214),
    "yellow": (232, 190, 40),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = ("circle", "square", "triangle")
BACKGROUND = 128.0

P_EMPTY = 0.35
# The share of the other colour (shape) in an object has a density proportional to
# exp(-SHARPNESS * share) on 0..1. Whoever sees the share exactly can be sure of the named colour to
# 1 / (1 + exp(-SHARPNESS * (1 - 2 * share))): nearly certain for most objects, a coin toss for few,
# and everything between.
SHARPNESS = 6.0
NOISE = (5.0, 25.0)  # range of the per-image standard deviation, in 8-bit pixel values

QUESTION_TYPES = ("count_colour", "count_shape", "colour_at", "shape_at", "more_than")
FOLDS = 10  # fold 0 is test, fold 1 is dev, the others are for training
TRAIN_FOLDS = tuple(range(2, FOLDS))


class Scenes(NamedTuple):
    """A batch of n scenes, before pixel noise.

    Attributes:
        contents: (n, 4, 4) integers: 0 for an empty cell, else 1 + 3 * colour + shape.
        rgb: (n, 4, 4, 3) colour each object is painted with, 0..255.
        shapes: (n, 4, 4, 1 + shapes) opacity of each stencil, the first being the empty one.
        noise: (n,) standard deviation of the pixel noise.
    """

    contents: np.ndarray
    rgb: np.ndarray
    shapes: np.ndarray
    noise: np.ndarray


class Question(NamedTuple):
    """A question about one scene; `evidence` holds the numbers a worked answer writes down."""

    kind: str
    text: str
    evidence: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The right answer."""
        return conclude(self.kind, self.evidence)[1]


def content_name(content: int) -> str:
    """'' for an empty cell, else for example 'red circle'."""
    if content == 0:
        return ""
    colour, shape = divmod(content - 1, len(SHAPES))
    return f"{COLOUR_NAMES[colour]} {SHAPES[shape]}"


def fold_of(contents: np.ndarray) -> np.ndarray:
    """(n,) fold number of each grid, a pure function of what is in its cells.

    Splits are made of whole folds, so no grid of one split can occur in another, whatever seeds
    are used: the check is by construction.
    """
    base = 1 + len(COLOURS) * len(SHAPES)
    weights = base ** np.arange(GRID * GRID, dtype=np.uint64)  # 13**16 fits 64 bits: an exact code
    codes = (contents.reshape(len(contents), -1).astype(np.uint64) * weights).sum(1)
    return (codes % np.uint64(FOLDS)).astype(int)


def sample_scenes(rng: np.random.Generator, n: int, folds: tuple[int, ...]) -> Scenes:
    """Draw n scenes whose grids lie in `folds` and hold at least one object."""
    kept = np.empty((0, GRID, GRID), dtype=np.int64)
    while len(kept) < n:
        cells = (2 * n, GRID, GRID)
        drawn = 1 + rng.integers(len(COLOURS) * len(SHAPES), size=cells)
        drawn[rng.random(cells) < P_EMPTY] = 0
        wanted = np.isin(fold_of(drawn), folds) & drawn.any((1, 2))
        kept = np.concatenate([kept, drawn[wanted]])
    contents = kept[:n]

    colour, shape = np.divmod(np.maximum(contents - 1, 0), len(SHAPES))
    paint = _blend(rng, colour, len(COLOURS)) @ np.array(list(COLOURS.values()), dtype=np.float64)
    stencil = _blend(rng, shape, len(SHAPES)) * (contents > 0)[..., None]
    shapes = np.concatenate([(contents == 0)[..., None], stencil], -1)
    return Scenes(contents, paint, shapes, rng.uniform(*NOISE, size=n))


def _blend(rng: np.random.Generator, named: np.ndarray, count: int) -> np.ndarray:
    """Weights (*named.shape, count): most of the named kind, a random share of another one."""
    other = (named + rng.integers(1, count, size=named.shape)) % count
    # The inverse of the share's distribution function.
    uniform = rng.random(named.shape)
    share = (-np.log1p(-uniform * -np.expm1(-SHARPNESS)) / SHARPNESS)[..., None]
    kinds = np.eye(count)
    return (1 - share) * kinds[named] + share * kinds[other]


def _shape_masks() -> np.ndarray:
    """(1 + shapes, 28, 28) stencils; the first, for an empty cell, is all zero."""
    y, x = np.mgrid[:CELL, :CELL] + 0.5 - CELL / 2
    circle = x**2 + y**2 <= 10.5**2
    square = np.maximum(abs(x), abs(y)) <= 9.0
    triangle = (y <= 9.0) & (abs(x) <= (y + 11.0) * 0.55)
    return np.stack([np.zeros_like(circle), circle, square, triangle]).astype(np.float32)


_MASKS = _shape_masks()


def render(scenes: Scenes, rng: np.random.Generator) -> np.ndarray:
    """(n, 112, 112, 3) uint8 images of the scenes, with pixel noise from `rng`."""
    n = len(scenes.contents)
    masks = np.tensordot(scenes.shapes.astype(np.float32), _MASKS, 1)[..., None]
    paint = (scenes.rgb - BACKGROUND).astype(np.float32)[:, :, :, None, None, :]
    cells = BACKGROUND + masks * paint  # (n, row, column, y, x, colour)
    images = cells.transpose(0, 1, 3, 2, 4, 5).reshape(n, SIZE, SIZE, 3)
    noise = rng.standard_normal(images.shape, dtype=np.float32)
    noise *= scenes.noise.astype(np.float32)[:, None, None, None]
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def ask(rng: np.random.Generator, contents: np.ndarray, kind: str) -> Question:
    """A question of type `kind` about one grid; `contents` is (4, 4)."""
    occupied = contents > 0
    colour = np.where(occupied, (contents - 1) // len(SHAPES), -1)
    shape = np.where(occupied, (contents - 1) % len(SHAPES), -1)

    if kind == "count_colour":
        wanted = int(rng.integers(len(COLOURS)))
        rows = (colour == wanted).sum(1)
        return Question(kind, f"How many {COLOUR_NAMES[wanted]} shapes?", tuple(map(int, rows)))
    if kind == "count_shape":
        wanted = int(rng.integers(len(SHAPES)))
        rows = (shape == wanted).sum(1)
        return Question(kind, f"How many {SHAPES[wanted]}s?", tuple(map(int, rows)))
    if kind in ("colour_at", "shape_at"):
        cells = np.argwhere(occupied)
        row, column = cells[rng.integers(len(cells))]
        what = kind.removesuffix("_at")
        text = f"What {what} is at row {row + 1} column {column + 1}?"
        return Question(kind, text, (int(contents[row, column]),))
    if kind == "more_than":
        if rng.random() < 0.5:
            values, names = colour, COLOUR_NAMES
        else:
            values, names = shape, tuple(f"{name}s" for name in SHAPES)
        first, second = rng.choice(len(names), size=2, replace=False)
        counts = (int((values == first).sum()), int((values == second).sum()))
        return Question(kind, f"More {names[first]} than {names[second]}?", counts)
    raise ValueError(f"unknown question type {kind!r}: choose one of {', '.join(QUESTION_TYPES)}")


def conclude(kind: str, evidence: tuple[int, ...]) -> tuple[str, str]:
    """The written-out evidence of a question and the answer that follows from it.

    Counting writes one count per row ('1+0+2+1'), looking up names the cell ('redcircle', one
    word and so one token), comparing writes both counts ('3,2').
    """
    if kind in ("count_colour", "count_shape"):
        return "+".join(map(str, evidence)), str(sum(evidence))
    if kind in ("colour_at", "shape_at"):
        colour, shape = content_name(evidence[0]).split()
        return colour + shape, colour if kind == "colour_at" else shape
    first, second = evidence
    return f"{first},{second}", "yes" if first > second else "no"


def split_docs(split: str, seed: int, count: int, fold: int) -> list[dict[str, Any]]:
    """The documents of a held-out split, the same on every machine.

    Question types alternate, so that the first k documents are a fair sample of all of them.
    """
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(rng, count, (fold,))
    images = render(scenes, rng)
    docs = []
    for index, (contents, image) in enumerate(zip(scenes.contents, images, strict=True)):
        question = ask(rng, contents, QUESTION_TYPES[index % len(QUESTION_TYPES)])
        docs.append(
            {
                "question_id": f"{split}-{index:04d}",
                "image": Image.fromarray(image),
                "question": question.text,
                "answer": question.answer,
                "question_type": question.kind,
                "grid": [[content_name(int(cell)) for cell in row] for row in contents],
            }
        )
    return docs


def process_docs(dataset: Dataset) -> Dataset:
    """Turn a split file's single row (split, seed, count, fold) into the rendered documents.

    lmms-eval has no hook for data that is made rather than loaded; a one-row file next to the
    YAML keeps its stock task classes, simple and chat, and works from any directory.
    """
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "question_id": text,
            "image": datasets.Image(),
            "question": text,
            "answer": text,
            "question_type": text,
            "grid": [[text]],
        }
    )
    docs = [doc for spec in dataset for doc in split_docs(**spec)]
    return datasets.Dataset.from_list(docs, features=features)


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The document's image, in RGB."""
    return [doc["image"].convert("RGB")]


def doc_to_text(
    doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str] | None = None
) -> str:
    """The question, between the prompt parts given in the YAML (empty by default)."""
    parts = lmms_eval_specific_kwargs or {}
    return f"{parts.get('pre_prompt', '')}{doc['question']}{parts.get('post_prompt', '')}"


def extract_answer(response: str) -> str:
    """Content of the last `<answer>...</answer>`, normalised; '' when there is none."""
    found = re.findall(r"<answer>(.*?)</answer>", response, flags=re.DOTALL)
    return " ".join(found[-1].lower().split()) if found else ""


def score(response: str, answer: str) -> float:
    """1.0 when the response's answer is exactly `answer`, else 0.0."""
    return float(extract_answer(response) == answer)


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score one response; the task reports the mean of `accuracy`."""
    return {"accuracy": score(results[0], doc["answer"])}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of pass@k from n answers, `correct` of them right.

    1 - C(n - correct, k) / C(n, k): one minus the chance that k answers drawn from the n are all
    wrong (Chen et al. 2021, arXiv 2107.03374). In [0, 1]; needs k <= n.
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def process_samples(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score all answers to one document: `pass@k` for k = 1, 2, 4, 8 as far as there are answers.

    `results` are the answers that the filter `take_first_k` lets through: lmms-eval hands the list
    itself on, not a list that holds it.
    """
    scores = [score(response, doc["answer"]) for response in results]
    n, correct = len(scores), int(sum(scores))
    return {f"pass@{k}": pass_at_k(n, correct, k) for k in (1, 2, 4, 8) if k <= n}
