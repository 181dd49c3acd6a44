"""A sixth type of question, for training and search only: its worked answer reads along a path.

It names one image region after the other. It taught the base to look; where RL rewards it, wrong
beliefs about cells, and damage to them, sit at visual positions. The task does not ask it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from checkpoint import task
from PIL import Image

KIND = "path"
CELLS = 4  # on a path, each beside the one before


class Path(NamedTuple):
    """How many cells of a path hold a colour or shape; `evidence` is what they hold."""

    text: str
    evidence: tuple[int, ...]
    wanted: str
    kind: str = KIND

    @property
    def answer(self) -> str:
        """The right answer."""
        return conclude(self, self.evidence)[1]


def ask(rng: np.random.Generator, contents: np.ndarray, kind: str) -> Path | task.Question:
    """A question of any type, this one included, about one grid; `contents` is (4, 4)."""
    if kind != KIND:
        return task.ask(rng, contents, kind)
    names = [*task.COLOUR_NAMES, *task.SHAPES]
    wanted = names[rng.integers(len(names))]
    path = [tuple(rng.integers(task.GRID, size=2))]
    while len(path) < CELLS:
        row, column = path[-1]
        beside = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        free = [(r, c) for r, c in beside if min(r, c) >= 0 and max(r, c) < task.GRID]
        path.append(free[rng.integers(len(free))])
    cells = "".join(f" row {row + 1} column {column + 1}" for row, column in path)
    return Path(f"How many {wanted} at{cells}?", tuple(int(contents[at]) for at in path), wanted)


def conclude(question: Path | task.Question, evidence: tuple[int, ...]) -> tuple[str, str]:
    """The written-out evidence of a question of any type, and the answer that follows from it."""
    if question.kind != KIND:
        return task.conclude(question.kind, evidence)
    names = [task.content_name(content) for content in evidence]
    thought = ",".join(name.replace(" ", "") or "empty" for name in names)
    return thought, str(sum(question.wanted in name.split() for name in names))


def docs(seed: int, count: int, fold: int) -> list[dict]:
    """Documents with a path each, shaped as the task's own; fold 1 is dev, 0 is test."""
    rng = np.random.default_rng(seed)
    scenes = task.sample_scenes(rng, count, (fold,))
    images = task.render(scenes, rng)
    rows = []
    for contents, image in zip(scenes.contents, images, strict=True):
        question = ask(rng, contents, KIND)
        row = {"image": Image.fromarray(image), "question": question.text}
        rows.append(row | {"answer": question.answer, "question_type": KIND})
    return rows
