"""Toy problems with known minima, for what moves x."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from replay_core import ReplayConfig
from replay_core.config import OptimizerName
from tests.replay_core.helpers import Toy, stable, toy

NAMES: list[OptimizerName] = ["plain", "lbfgs"]


@dataclass(frozen=True)
class Bowl(Toy):
    """Samples of one token, their losses 1 + Σ_j curves_j / 2 (x_j - lowest_j)², not a number
    where |x| exceeds ``edge``; ``seen`` are the x that the loop asks about."""

    curves: Tensor
    lowest: Tensor
    edge: float = math.inf
    seen: list[Tensor] = field(default_factory=list)

    def losses(self, delta: Tensor) -> Tensor:
        self.seen.append(delta.detach().clone())
        found = 1 + (self.curves / 2 * (delta - self.lowest).square()).sum(1)
        inside = torch.where(delta.detach().norm(dim=1) < self.edge, 1, torch.nan)
        return found * inside  # and so is the gradient


def bowl(
    config: ReplayConfig,
    curves: Sequence[Sequence[float]],
    lowest: Sequence[Sequence[float]],
    edge: float = math.inf,
) -> Bowl:
    """Return a problem of as many samples, of two dimensions each."""
    flat = [0.0] * len(curves)
    plain = toy(config, curve=flat, slope=flat, start=flat)
    return Bowl(**vars(plain), curves=torch.tensor(curves), lowest=torch.tensor(lowest), edge=edge)


def lbfgs(**changes: Any) -> ReplayConfig:
    return stable(**{"optimizer": "lbfgs", **changes})


def only(problem: Bowl, sample: int) -> Bowl:
    """Return the problem of one of the samples, alone."""
    index = slice(sample, sample + 1)
    curves, lowest = problem.curves[index].tolist(), problem.lowest[index].tolist()
    return bowl(problem.config, curves, lowest, problem.edge)
