"""What the embedded pairs were trained with: the phases of the base, the recipes of RL.

The search's recipes stay here, whatever they showed: `search.csv` and the logs call them by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import paths
from checkpoint import task

# Share of the base's answers that are blind guesses, habitually on two types of question: what RL
# has to find out is that working pays.
P_GUESS = {
    "count_colour": 0.55,
    "count_shape": 0.3,
    "colour_at": 0.2,
    "shape_at": 0.2,
    "more_than": 0.55,
}
# In its last phase the base guesses even more.
P_HABIT = {
    "count_colour": 0.65,
    "count_shape": 0.55,
    "colour_at": 0.25,
    "shape_at": 0.25,
    "more_than": 0.65,
}


@dataclass(frozen=True)
class Phase:
    """One supervised phase of a base: what it goes on from and what it learns.

    `stream` numbers its random draws; RL has stream 1.
    """

    p_guess: dict[str, float]
    steps: int
    lr: float
    stream: int
    start: str = ""  # nothing: random weights
    question_first: bool = False


@dataclass(frozen=True)
class Recipe:
    """One way to train a policy: on which questions, and how fast which part of the model."""

    kinds: tuple[str, ...] = task.QUESTION_TYPES
    text_lr: float = 1e-4
    vision_lr: float = 1e-4
    steps: int = 160
    prompts: int = 48
    samples: int = 8
    start: str = "base"
    question_first: bool = False


Plan = TypeVar("Plan", Phase, Recipe)
PHASES = {
    "base-plain": Phase(P_GUESS, steps=1300, lr=2e-3, stream=0),
    "base-habits": Phase(P_HABIT, steps=300, lr=1e-3, stream=2, start="base-plain"),
    # Naming the cells along paths teaches it to look; look-ups profit most.
    "base-paths": Phase(P_HABIT | {paths.KIND: 0.6}, 500, 1e-3, 4, start="base-habits"),
    # For the search; not shipped.
    "base-question-first": Phase(P_HABIT, 500, 1e-3, 3, start="base", question_first=True),
}
NARROW = ("count_colour", "more_than")
COLOURS = ("count_colour", "colour_at")
RECIPES = {
    "demo": Recipe(steps=80),
    # Two types are rewarded, and the vision tower learns 25 times as fast as the text: the policy
    # learns to work, as in `demo`, while what it sees drifts.
    "narrow-fast": Recipe(NARROW, vision_lr=2.5e-3, steps=60),
    "late-vision": Recipe(NARROW, text_lr=0.0, vision_lr=2e-3, steps=50, start="policy"),
    "late-narrow-fast": Recipe(NARROW, vision_lr=2.5e-3, steps=50, start="policy"),
    # Destructive on purpose: only the vision tower learns, fast, and only two types are rewarded.
    # It goes on from the good policy, which answers by working: blind guesses hide the damage.
    "drifted-4e-3": Recipe(NARROW, text_lr=0.0, vision_lr=4e-3, steps=50, start="policy"),
    # Tried for the drifted pair; not shipped.
    "drifted": Recipe(NARROW, text_lr=0.0, vision_lr=2.5e-3, steps=50, start="policy"),
    "drifted-long": Recipe(NARROW, text_lr=0.0, vision_lr=2.5e-3, steps=100, start="policy"),
    "drifted-count": Recipe(NARROW[:1], text_lr=0.0, vision_lr=2.5e-3, steps=60, start="policy"),
    # Tried in the search for good RLVR that replay helps; not shipped.
    "narrow": Recipe(NARROW, vision_lr=1.5e-3, steps=60),
    "narrow-long": Recipe(NARROW, vision_lr=2.5e-3, steps=120),
    "colours": Recipe(COLOURS, vision_lr=2.5e-3, steps=80),
    "restless": Recipe(vision_lr=1e-3, steps=60),
    "question-first": Recipe(steps=60, start="base-question-first", question_first=True),
    "paths": Recipe((paths.KIND,), steps=60),
    "paths-fast": Recipe((paths.KIND,), vision_lr=1.5e-3, steps=60),
}


def shortened(plan: Plan, steps: int | None) -> Plan:
    """The same phase or recipe with another number of steps, where one is given."""
    return replace(plan, steps=steps) if steps else plan
