"""Where the descent goes next: the plain step of the paper, or L-BFGS with a safeguard.

All is each sample's own, whatever it shares a batch with, and nothing waits for an accelerator.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from replay_core.config import OptimizerName

# So many pairs of moves and gradient changes are kept: more spared no step on the embedded pairs.
_PAIRS = 5
# A change of the gradient tells of curvature where its cosine with the move is above this.
_CURVED = 1e-6
# A step that was too long is cut to this share of itself at least.
_SHORTEST = 0.1


@dataclass(frozen=True)
class Scale:
    """What the loop's gradients (visual tokens, hidden) are: those of ``weight · losses``.

    ``owner`` (visual tokens,) is the sample of each row, ``weight`` is (samples,), and plain
    descent takes ``step`` times the gradient.
    """

    owner: Tensor
    weight: Tensor
    step: float

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return each sample's Σ a·b, (samples,), in float32."""
        zero = torch.zeros_like(self.weight, dtype=torch.float32)
        return zero.index_add(0, self.owner, (a * b).sum(-1))

    def rows(self, values: Tensor) -> Tensor:
        """Return what each sample has (samples,) at each of its tokens, (visual tokens, 1)."""
        return values[self.owner, None]


class Optimizer(Protocol):
    """Chooses iterate after iterate of x.

    With ``safeguarded``, an iterate may be a trial that is gone back from, so that x in the end is
    the best one; a loss that is not finite is such a trial, too.
    """

    safeguarded: bool

    def step(self, x: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Return the next x (visual tokens, hidden), a new tensor.

        ``losses`` (samples,) and ``gradient`` are those at ``x``, the gradient 0 where x is not to
        move; it is not written to afterwards, while ``x`` is.
        """
        ...


class Plain:
    """Gradient descent with a constant step, as published."""

    safeguarded = False

    def __init__(self, scale: Scale) -> None:
        self._step = scale.step

    def step(self, x: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Return x - α ∂L/∂x."""
        return x - self._step * gradient


@dataclass(frozen=True)
class _Point:
    x: Tensor
    losses: Tensor
    gradient: Tensor


@dataclass
class _Pair:
    """A move s, the change y of the gradient along it, and 1 / Σ s·y: 0 where it is not used."""

    s: Tensor
    y: Tensor
    inverse: Tensor


class LBFGS:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.4) that never leaves a sample worse than before.

    The first step is the plain one. From then on the last moves tell each sample's curvature, and
    the whole step that it suggests is tried. Where the loss rises, or is not finite, the sample
    goes back to its best x, and takes a shorter step in the same direction, to the minimum of the
    parabola through what is known. Where the direction does not descend, the sample's past is
    forgotten, and it takes a plain step. State is float32. ``torch.optim.LBFGS`` would take a
    batch for one problem, and waits for the accelerator at every step.
    """

    safeguarded = True

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._pairs: deque[_Pair] = deque(maxlen=_PAIRS)
        self._best: _Point | None = None

    def step(self, x: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Return the best x so far, moved along a direction of descent."""
        scale, rows = self._scale, self._scale.rows
        here = _Point(x.to(torch.float32, copy=True), losses.float(), gradient.float())
        if self._best is None:
            self._best = here
            self._newton = torch.full_like(here.losses, scale.step)
            self._length = torch.ones_like(here.losses)
            self._direction = -scale.step * here.gradient
        else:
            fell = here.losses <= self._best.losses
            self._remember(here, self._best)
            shorter = self._shortened(here.losses, self._best)
            self._best = best = _Point(
                torch.where(rows(fell), here.x, self._best.x),
                torch.where(fell, here.losses, self._best.losses),
                torch.where(rows(fell), here.gradient, self._best.gradient),
            )
            direction = self._suggested(best.gradient)
            descends = scale.dot(direction, best.gradient) < 0
            for pair in self._pairs:
                pair.inverse = pair.inverse.where(descends, 0)
            direction = torch.where(rows(descends), direction, -scale.step * best.gradient)
            self._direction = torch.where(rows(fell), direction, self._direction)
            self._length = torch.where(fell, 1, shorter)
        return self._best.x + rows(self._length) * self._direction

    def _remember(self, here: _Point, best: _Point) -> None:
        """Note what the move from the best x to here tells of the curvature."""
        dot, rows = self._scale.dot, self._scale.rows
        s, y = here.x - best.x, here.gradient - best.gradient
        along, size = dot(s, y), dot(y, y)
        inverse, newton = 1 / along, along / size
        useful = along > _CURVED * dot(s, s).sqrt() * size.sqrt()
        useful = useful & inverse.isfinite() & newton.isfinite()
        self._newton = torch.where(useful, newton, self._newton)
        kept = rows(useful)
        self._pairs.append(_Pair(s.where(kept, 0), y.where(kept, 0), inverse.where(useful, 0)))

    def _shortened(self, losses: Tensor, best: _Point) -> Tensor:
        """Return the length of the next step (samples,) where this one's ``losses`` rose.

        The parabola has the loss and slope of the best x, and the loss at the end of this step:
        its minimum lies in the first half of the step, since the loss rose.
        """
        length = self._length
        slope = self._scale.dot(best.gradient, self._direction) / self._scale.weight
        bend = (losses - best.losses - length * slope) / length**2
        lowest = (-slope / (2 * bend)).where(bend > 0, 0).nan_to_num()
        return torch.maximum(lowest, _SHORTEST * length)

    def _suggested(self, gradient: Tensor) -> Tensor:
        """Return minus the gradient times the inverse curvature, by the two-loop recursion."""
        dot, rows = self._scale.dot, self._scale.rows
        found, taken = gradient, []
        for pair in reversed(self._pairs):
            share = pair.inverse * dot(pair.s, found)
            found = found - rows(share) * pair.y
            taken.append(share)
        found = rows(self._newton) * found
        for pair, share in zip(self._pairs, reversed(taken), strict=True):
            found = found + rows(share - pair.inverse * dot(pair.y, found)) * pair.s
        return -found


OPTIMIZERS: dict[OptimizerName, Callable[[Scale], Optimizer]] = {"plain": Plain, "lbfgs": LBFGS}


def state_bytes(name: OptimizerName, x: Tensor) -> int:
    """Return the bytes that an optimiser holds beside x (visual tokens, hidden) and its gradient.

    L-BFGS has its pairs, the best x with its gradient, the direction, and room to compute.
    """
    return 4 * x.numel() * (2 * _PAIRS + 6) if name == "lbfgs" else 0
