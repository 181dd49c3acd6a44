"""What optimising a batch leaves: how it is steered, and what happened to each sample."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from replay_core.errors import ReplayError
from replay_core.injection import Injection
from replay_core.memory import MemoryPlan
from replay_core.model.vision import VisualFeatures
from replay_core.outcome import Outcome, SampleReplay
from replay_core.record import Seconds


@dataclass(frozen=True)
class ReplayResult:
    """How one batch is steered: by optimised visual tokens, or by direct injection.

    ``delta`` is x, (visual tokens, hidden), in the order of the prompts, 0 where a sample is not
    steered; None, like ``features``, for a batch without visual tokens, and None with
    ``method=inject``, which leaves an ``injection``. ``samples`` tells, per sample, what happened.
    ``seconds`` are the batch's, not yet shared out; ``memory`` is how its loop was
    chosen to run. ``stored`` says what was found in a store and not computed: x, or the base's
    targets.
    """

    delta: Tensor | None
    features: VisualFeatures | None
    samples: tuple[SampleReplay, ...]
    injection: Injection | None = None
    seconds: Seconds = field(default_factory=Seconds)
    peak_memory_mb: float | None = None
    memory: MemoryPlan | None = None
    error: str | None = None
    stored: Literal["targets", "x"] | None = None

    def of(self, sample: int) -> Tensor | None:
        """Return one sample's x (its visual tokens, hidden); None where it is not steered by x."""
        steered = self.samples[sample].changed_fraction > 0
        if self.delta is None or self.features is None or not steered:
            return None
        owner, _ = torch.nonzero(self.features.positions, as_tuple=True)
        return self.delta[owner == sample]

    @classmethod
    def untouched(
        cls,
        outcome: Outcome,
        samples: int,
        features: VisualFeatures | None = None,
        error: str | None = None,
    ) -> "ReplayResult":
        """Return the result of a batch none of which is steered, all for the same reason."""
        delta = None if features is None else torch.zeros_like(features.flat)
        return cls(delta, features, (SampleReplay(outcome),) * samples, error=error)


def raise_failure(samples: Sequence[SampleReplay]) -> None:
    """Raise ReplayError for the first sample whose loop went wrong."""
    for number, sample in enumerate(samples):
        if sample.outcome in (Outcome.DIVERGED, Outcome.NON_FINITE):
            raise ReplayError(
                f"replay of sample {number} of the batch ended as {sample.outcome.value}: its loss "
                f"went from {sample.loss_before} to {sample.loss_after}"
            )
