"""How replay ended for one sample: a name, what became of the answer, and what to do about it."""

import math
from dataclasses import dataclass
from enum import StrEnum

# A loss that climbs to more than this many times its start "rose on the way". Plain descent on a
# stable step never does, and rounding alone lifts a bfloat16 loss by less than 1%.
ROSE = 1.05


class Outcome(StrEnum):
    """How replay ended for one sample; only ``APPLIED`` steers the answer.

    ``meaning`` says what happened and what the answer is.
    """

    meaning: str
    _remedy: str

    def __new__(cls, name: str, meaning: str, remedy: str = "") -> "Outcome":
        """Return the member ``name``, with its two texts."""
        outcome = str.__new__(cls, name)
        outcome._value_ = name
        outcome.meaning, outcome._remedy = meaning, remedy
        return outcome

    APPLIED = "applied", "the loss fell, and the edit changed the model's input"
    NO_VISUAL_TOKENS = (
        "no_visual_tokens",
        "the prompt has no image or video, so the plain policy answered",
    )
    EMPTY_MASK = (
        "empty_mask",
        "no base activation is below the threshold, so the plain policy answered",
        "raise {}threshold, or take {}select=all",
    )
    NO_DRIFT = (
        "no_drift",
        "policy and base already agree up to rounding, so the plain policy answered",
    )
    NO_EFFECT = (
        "no_effect",
        "x is zero or lost in the rounding of the model's dtype, so the plain policy answered",
        "raise {}step_size",
    )
    # The reading of the release keeps its last x all the same.
    DIVERGED = (
        "diverged",
        "the loss ended above its start; the answer is steered with boundary=reference only",
        "lower {}step_size, or take {}keep=best",
    )
    NON_FINITE = (
        "non_finite",
        "the loss or its gradient became NaN or infinite, so the plain policy answered",
        "lower {}step_size; {}strict=true shows where",
    )
    OUT_OF_MEMORY = (
        "out_of_memory",
        "the loop did not fit into memory, so the plain policy answered; where its answer did not "
        "fit either, it is empty",
        "take fewer pixels or new tokens, or hold the base elsewhere ({}base_device), and run "
        "again",
    )
    FAILED = (
        "failed",
        "an exception ended the loop, so the plain policy answered; where it failed too, the "
        "answer is empty",
        "the record's error and the log say what it was; run again, with {}strict=true to stop "
        "there",
    )
    UNREADABLE_INPUT = (
        "unreadable_input",
        "an image or video of the prompt cannot be read, so the answer is empty",
        "mend the file that the record's error names, and run again",
    )
    OFF = "off", "replay was not asked for: method=none or base"

    def remedy(self, prefix: str = "") -> str:
        """Return what a user can do about it; empty where nothing is amiss.

        ``prefix`` stands before the options' names, as the user types them (``replay_`` in a
        harness).
        """
        return self._remedy.replace("{}", prefix)


FAULTS = (Outcome.OUT_OF_MEMORY, Outcome.FAILED)
"""What kept a sample from being answered as it was meant to be, and might not the next time."""


@dataclass(frozen=True)
class SampleReplay:
    """What replay did to one sample. Losses in nats; norms are means of L2 norms per token.

    ``losses`` are those of the descent's iterates; ``loss_plain`` is that of x = 0, where the
    descent began elsewhere.
    """

    outcome: Outcome
    visual_tokens: int = 0
    losses: tuple[float, ...] = ()
    loss_after: float | None = None
    masked_fraction: tuple[tuple[int, float], ...] = ()
    changed_fraction: float = 0.0
    feature_norm: float = 0.0
    delta_norm: float = 0.0
    loss_plain: float | None = None

    @property
    def loss_before(self) -> float | None:
        """The loss at x = 0, None where there was nothing to match."""
        if self.loss_plain is not None:
            return self.loss_plain
        return self.losses[0] if self.losses else None

    @property
    def loss_start(self) -> float | None:
        """The loss where the descent began, None where that was x = 0."""
        return self.losses[0] if self.loss_plain is not None and self.losses else None

    @property
    def steps(self) -> int:
        """How many gradient steps were taken."""
        return max(0, len(self.losses) - 1)

    @property
    def loss_peak(self) -> float | None:
        """The largest finite loss of all iterates, None where there is none."""
        return max(filter(math.isfinite, self.losses), default=None)

    @property
    def rose(self) -> bool:
        """Whether an iterate's loss was more than 5% above that of x = 0, wherever it ended."""
        before = self.loss_before
        return before is not None and any(loss > ROSE * before for loss in self.losses)
