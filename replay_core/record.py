"""What is known of one sample, in the one schema that every log, study and report uses."""

from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any

import torch
import transformers
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from replay_core.config import ReplayConfig
from replay_core.outcome import FAULTS, Outcome, SampleReplay
from replay_core.pair.pair import Pair

SCHEMA_VERSION = 1


class Seconds(BaseModel):
    """Wall-clock seconds of one sample: an equal share of its batch's time."""

    model_config = ConfigDict(frozen=True)

    base: float = 0.0
    """Vision towers and the base's pass."""
    loop: float = 0.0
    """The descent on x."""
    decode: float = 0.0
    """The answer."""

    @property
    def total(self) -> float:
        """All of them together."""
        return self.base + self.loop + self.decode


class ToolUse(BaseModel):
    """What became of a tool's call in one turn of a conversation: a crop, or a sentence."""

    model_config = ConfigDict(frozen=True)

    box: tuple[float, float, float, float] | None = None
    """What the model named: left, top, right, bottom, in pixels of the image as it was shown."""
    crop: tuple[int, int, int, int] | None = None
    """Those pixels of the original image, which the next turn shows; None for a refused call."""
    size: tuple[int, int] | None = None
    """Width and height that they are shown in."""
    told: str | None = None
    """The sentence to the model in the crop's place, or beside it."""


class ReplayRecord(BaseModel):
    """One sample's record. Losses and entropies in nats, norms are means of L2 norms per token."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    pair: str
    policy_revision: str
    base_revision: str
    config_hash: str
    versions: dict[str, str]
    method: str
    outcome: Outcome
    loss_before: float | None = None
    loss_after: float | None = None
    loss_start: float | None = None
    """The loss where the loop began, with a ``start``; None where that was x = 0."""
    loss_peak: float | None = None
    """The largest loss of all iterates."""
    rose: bool = False
    """Whether the loss was more than 5% above ``loss_before`` on its way: a large step size."""
    steps: int = 0
    visual_tokens: int = 0
    """N, the sample's number of visual tokens."""
    masked_fraction: dict[int, float] = {}
    """Layer → share of the sample's candidates that were matched."""
    changed_fraction: float = 0.0
    """Share of the visual features' elements that x changed, in the model's dtype; with injection,
    of the overwritten activations' elements."""
    feature_norm: float = 0.0
    """Of the visual features; with injection, of the policy's activations that are overwritten."""
    delta_norm: float = 0.0
    """Of x; with injection, of base - policy where activations are overwritten."""
    seconds: Seconds = Seconds()
    peak_memory_mb: float | None = None
    """Peak of the accelerator's memory during the batch; None on the CPU."""
    estimated_memory_mb: float | None = None
    """What the loop's gradient was estimated to keep, with nothing run again, in MiB."""
    checkpointing: bool = False
    """Whether the loop's layers ran again for the gradient, since that would not fit."""
    stored: str | None = None
    """What a store gave, so that no time was spent on it: ``x``, or the base's ``targets``."""
    decoder: str = "transformers"
    """What wrote the answer: ``transformers``, or ``vllm`` with its version."""
    batch_size: int = 1
    finish_reason: str | None = None
    """``stop`` or ``length``; ``length`` means that the answer was cut."""
    new_tokens: int | None = None
    truncated: bool | None = None
    response: str | None = None
    """What the model wrote, where a final answer was taken out of it for the scorer."""
    answer: str | None = None
    """That final answer, as the scorer was given it; empty where there was none."""
    seed: int | None = None
    turn: int | None = None
    """Which text of a conversation it is, from 0 on; None for an answer without turns."""
    tool: ToolUse | None = None
    """What became of the tool's call in this turn's text; None where it called none."""
    error: str | None = None
    """What went wrong, where ``outcome`` says that something did."""


def answer_fields(
    new_ids: Tensor, eos: Collection[int], max_new_tokens: int
) -> list[dict[str, Any]]:
    """Return each answer's length in tokens (without the end token) and why it ended.

    ``new_ids`` (batch, t) are what ``generate`` returned behind the prompts.
    """
    fields: list[dict[str, Any]] = []
    for row in new_ids.tolist():
        length = next((i for i, token in enumerate(row) if token in eos), len(row))
        cut = length >= max_new_tokens
        reason = "length" if cut else "stop"
        fields.append({"new_tokens": length, "finish_reason": reason, "truncated": cut})
    return fields


def lasting(record: Mapping[str, Any]) -> bool:
    """Return whether the same command would end in the same outcome again.

    It need not where memory ran out, a file could not be read, or something failed: these depend on
    the moment, so that no store of answers may serve them to a later run. ``record`` has a record's
    fields; one without an outcome, as of a measurement, lasts.
    """
    passing = (*FAULTS, Outcome.UNREADABLE_INPUT)
    return record.get("outcome") not in passing and record.get("error") is None


def library_versions() -> dict[str, str]:
    """Return the versions that an answer depends on."""
    return {
        "activation-replay": version("activation-replay"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def make_record(
    pair: Pair, config: ReplayConfig, sample: SampleReplay, **measured: Any
) -> ReplayRecord:
    """Return the record of one sample; ``measured`` are further fields of the schema."""
    return ReplayRecord(
        pair=pair.name,
        policy_revision=pair.policy_revision,
        base_revision=pair.base_revision,
        config_hash=config.fingerprint(),
        versions=library_versions(),
        method=config.method,
        outcome=sample.outcome,
        loss_before=_finite(sample.loss_before),
        loss_after=_finite(sample.loss_after),
        loss_start=_finite(sample.loss_start),
        loss_peak=_finite(sample.loss_peak),
        rose=sample.rose,
        steps=sample.steps,
        visual_tokens=sample.visual_tokens,
        masked_fraction=dict(sample.masked_fraction),
        changed_fraction=sample.changed_fraction,
        feature_norm=sample.feature_norm,
        delta_norm=sample.delta_norm,
        **measured,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else value
