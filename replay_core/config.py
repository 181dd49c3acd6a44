"""Every knob of the method, in one frozen object that is validated when it is built."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from replay_core.errors import UsageError, shown

Method = Literal["replay", "amortised", "inject", "none", "base"]
Select = Literal["low", "high", "all", "random", "matched_low", "matched_high", "matched_random"]
Boundary = Literal["aligned", "reference"]
Positions = Literal["visual", "input"]
Maximum = Literal["sample", "image"]
Checkpointing = Literal["auto", "on", "off"]
StepScaling = Literal["published", "tokens"]
OptimizerName = Literal["plain", "lbfgs"]


def not_a_truth_value(given: Any) -> Any:
    """Refuse true and false where a number belongs; Python counts them as 1 and 0."""
    if isinstance(given, bool):
        raise ValueError("true and false are no numbers")
    return given


def true_or_false(given: Any) -> Any:
    """Return a truth value; other words and numbers that may stand for one are left to be refused.

    pydantic takes "yes", "on", "t" and 1 for true.
    """
    known = {"true": True, "false": False}
    found = known.get(given.lower()) if isinstance(given, str) else given
    if not isinstance(found, bool):
        raise ValueError("neither true nor false")
    return found


def _numbers_alone(given: Any) -> Any:
    """Refuse a list of indices that holds texts or truth values, which pydantic takes for some."""
    if isinstance(given, list | tuple) and any(type(one) is not int for one in given):
        raise ValueError("not all are whole numbers")
    return given


Number = Annotated[float, BeforeValidator(not_a_truth_value)]
Whole = Annotated[int, BeforeValidator(not_a_truth_value)]
Truth = Annotated[bool, BeforeValidator(true_or_false)]
Index = Annotated[int, Field(ge=0)]
Nats = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
_MOST_STEPS = 100_000
_LARGEST_SEED = 2**63 - 1

# The fixed thresholds, in nats, that the paper's release has for Qwen2.5-VL-7B's layers 0 to 13.
_FIRST_HALF = (4.812, 4.781, 3.734, 3.297, 3.328, 3.812, 4.312)
_SECOND_HALF = (5.125, 4.938, 5.0, 4.719, 4.656, 4.656, 4.812)
RELEASE_THRESHOLDS = dict(enumerate((*_FIRST_HALF, *_SECOND_HALF)))
# What only the descent on x reads, what changes no result of it, and what only a dynamic mask
# reads.
_OF_THE_DESCENT = (
    *("step_size", "step_scaling", "steps", "optimizer", "tolerance", "keep", "x", "top_k"),
    "start",
)
_HOW_IT_RUNS = ("checkpointing", "cuda_graphs")
_OF_THE_MASK = ("threshold", "maximum")
# What the release's direct injection does, where the user says nothing else.
_RELEASE_INJECTION = {"layers": 7, "positions": "input", "thresholds": "release"}


# What `activation-replay amortise` writes says so in its header.
START_FORMAT = "activation-replay amortised 1"


class Start(BaseModel):
    """A file of ``activation-replay amortise``, and what it held when it was named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    digest: str

    @model_validator(mode="before")
    @classmethod
    def _of_a_file(cls, given: Any) -> Any:
        """Read a file that is given by its path alone."""
        if not isinstance(given, str | Path):
            return given
        try:
            content = Path(given).expanduser().read_bytes()
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            if header["__metadata__"]["format"] != START_FORMAT:
                raise ValueError(f"its format is not {START_FORMAT!r}")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{given} cannot be read as a start ({error})") from error
        digest = hashlib.sha256(content).hexdigest()[:16]
        return {"path": str(Path(given).expanduser()), "digest": digest}


class ReplayConfig(BaseModel):
    """Settings of Activation Replay (Xing et al. 2025, arXiv 2511.19972).

    Published, as the paper's released settings have them, are the defaults of ``select``,
    ``threshold``, ``thresholds``, ``step_size``, ``steps``, ``top_k``, ``positions``, ``maximum``,
    ``step_scaling``, ``optimizer``, ``tolerance``, ``keep``, ``start`` and ``x``. Not published is
    ``boundary="aligned"``: the published tables were made with the release's reading,
    ``boundary="reference"``.
    ``layers="auto"`` carries the 16 of 28 layers released for MM-Eureka-Qwen-7B over to other
    depths; VL-Rethinker-7B has 24. At least one published number was made with other values:
    MM-Eureka-Qwen-7B's 47.7 on MathVerse has ``threshold`` 0.2 and ``step_size`` 40.

    The loss is the KL(base ‖ policy), averaged over a layer's masked positions, summed over layers,
    divided by the number N of visual tokens. So ``step_size`` does not transfer between image
    sizes: the step on one token is about ``step_size / (N * masked)``.

    The paper's text departs from its release, and from this, in three points: it writes the mask
    with ``<`` for ``<=``, the KL over the whole vocabulary (``top_k="full"``), and the candidates
    as all positions of the prompt (``positions="input"``).

    Raises:
        pydantic.ValidationError: a value outside its range, or an unknown name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field("replay", description="replay, amortised, inject, none or base")
    """``replay``: optimise the visual tokens; ``amortised``: take x from the map in ``start``, with
    no base and no step; ``inject``: overwrite the policy's activations by the base's (Table 1);
    ``none``: the policy alone; ``base``: the base alone."""

    select: Select = Field(
        "low",
        description="low, high, all, random, matched_low, matched_high or matched_random",
    )
    """Which activations are matched: the base's low-entropy ones (the paper's mask), the
    complement, all, or as many as ``low`` at random. The ``matched`` arms have equally many each:
    with m the smaller of the numbers that ``low`` and ``high`` have in a sample and layer, the m
    lowest, the m highest, or m at random."""

    boundary: Boundary = Field("aligned", description="aligned or reference")
    """``aligned``: base after layer l against policy after layer l, in float32. ``reference``: the
    release's reading, with which the published tables were made: base after layer l against policy
    before layer l, in the model's dtype; for
    ``inject`` the input of layer l is overwritten by the base's, and only where the base's entropy
    after l also lies below the policy's there."""

    top_k: Annotated[Whole, Field(ge=2)] | Literal["full"] = Field(
        50, description="a whole number from 2 on, or full"
    )
    """Support of the KL: the base's k most probable ids, renormalised, or the whole vocabulary."""

    positions: Positions = Field("visual", description="visual or input")
    """Candidates of the mask: the visual tokens, or all tokens of the prompt."""

    layers: (
        Literal["auto"]
        | Annotated[Whole, Field(ge=1)]
        | Annotated[tuple[Index, ...], BeforeValidator(_numbers_alone)]
    ) = Field(
        "auto", description="auto, a number of layers from 1 on, or distinct indices as in [0,1,2]"
    )
    """``auto``: the first 4/7 of the decoder, or the layers that ``thresholds`` names; n: its first
    n layers; or the indices themselves."""

    threshold: Number = Field(0.4, gt=0, le=1, description="a number above 0, at most 1")
    """γ: an activation is low-entropy when its base entropy is at most γ times the sample's largest
    at that layer."""

    maximum: Maximum = Field("sample", description="sample or image")
    """Whether γ refers to the largest entropy of the sample or of each of its images."""

    thresholds: (
        Literal["dynamic", "release"] | Annotated[dict[Index, Nats], Field(min_length=1)]
    ) = Field(
        "dynamic", description="dynamic, release, or a positive number of nats for each layer"
    )
    """``dynamic``: γ times the maximum; else fixed entropies, layer → nats, in place of γ and the
    maximum: those of the release (for Qwen2.5-VL-7B), or found on other prompts."""

    step_size: Number = Field(10.0, gt=0, le=1e12, description="a number above 0, at most 1e12")
    """α of the plain gradient descent on x."""

    step_scaling: StepScaling = Field("published", description="published or tokens")
    """``published``: x ← x - α ∂loss/∂x, whose step on one token shrinks about as 1/N² with the
    sample's N visual tokens. ``tokens``: that step times N², so that α means the same for every
    image size; a published α for N tokens is α/N² here."""

    steps: Whole = Field(
        25, ge=0, le=_MOST_STEPS, description=f"a whole number from 0 to {_MOST_STEPS:,}"
    )
    """Gradient steps, at most; 0 runs the whole path with x = 0."""

    optimizer: OptimizerName = Field("plain", description="plain or lbfgs")
    """``plain``: gradient descent with a constant step, as published. ``lbfgs``: from its second
    step on, the step that each sample's last ones suggest, and never one that leaves its loss
    higher, so that x is the best one found; it needs a third of the steps, or fewer, to the same
    loss."""

    tolerance: Number = Field(0.0, ge=0, lt=1, description="a number from 0 on, below 1")
    """A sample leaves the loop when two steps one after the other each changed its loss by no more
    than this share of what it was at x = 0; 0: never, as published."""

    keep: Literal["last", "best"] = Field("last", description="last or best")
    """Which iterate of x is used: the last one, as published, or the one of the lowest loss."""

    start: Start | None = Field(
        None, description="none, or a file that `activation-replay amortise` wrote"
    )
    """Where the descent begins: at 0, as published, or at the x that a learned map predicts from
    the policy's visual features, in each sample whose loss that lowers."""

    x: Literal["optimised", "random"] = Field("optimised", description="optimised or random")
    """``random``: put noise of the same norm in the place of each token's x, the control that a
    gain has to beat. It costs what replay costs."""

    checkpointing: Checkpointing = Field("auto", description="auto, on or off")
    """Whether the loop's decoder layers keep their inputs only and run again for the gradient, so
    that long prompts fit; ``auto``: where the rest would not fit. It changes no result."""

    cuda_graphs: Literal["auto", "off"] = Field("auto", description="auto or off")
    """Whether a step of the loop is recorded once and replayed, where it is one GPU's work and
    short; the same kernels run, so it changes no result more than running twice does."""

    seed: Whole = Field(
        0, ge=0, le=_LARGEST_SEED, description="a whole number from 0 on, below 2**63"
    )
    """Seed of ``select=random``, ``x=random`` and of sampled answers."""

    strict: Truth = Field(False, description="true or false")
    """Raise what goes wrong inside one sample instead of answering it un-steered."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_release_injects(cls, given: Any) -> Any:
        """Fill in what the release's injection has fixed, where the user says nothing else."""
        if (
            isinstance(given, dict)
            and given.get("method") == "inject"
            and given.get("boundary") == "reference"
        ):
            return {**_RELEASE_INJECTION, **given}
        return given

    @field_validator("start", mode="before")
    @classmethod
    def _none_as_it_is_typed(cls, given: Any) -> Any:
        return None if given == "none" else given

    @model_validator(mode="after")
    def _amortised_has_a_map(self) -> "ReplayConfig":
        if self.method == "amortised" and self.start is None:
            raise ValueError(
                "method=amortised needs start=FILE, a file that `activation-replay amortise` wrote"
            )
        return self

    @model_validator(mode="after")
    def _maximum_has_images(self) -> "ReplayConfig":
        if self.maximum == "image" and self.positions == "input":
            raise ValueError("maximum=image goes with positions=visual only: text has no image")
        return self

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> "ReplayConfig":
        if isinstance(self.layers, tuple) and not 0 < len(set(self.layers)) == len(self.layers):
            raise ValueError(f"layers={shown(self.layers)} must be distinct indices, at least one")
        return self

    def changed(self, **changes: Any) -> "ReplayConfig":
        """Return these settings with some changed, validated as they were.

        Raises:
            pydantic.ValidationError: a value outside its range, or an unknown name.
        """
        return ReplayConfig(**{**self.model_dump(), **changes})

    @property
    def steers(self) -> bool:
        """Whether the policy's answer is changed: it is not one model, left alone."""
        return self.method in ("replay", "amortised", "inject")

    @property
    def starts(self) -> Start | None:
        """The map that x is taken from, or begun at; None where ``method`` needs no x."""
        return self.start if self.method in ("replay", "amortised") else None

    @property
    def asks_base(self) -> bool:
        """Whether the answer is of policy and base together."""
        return self.method in ("replay", "inject")

    def layer_indices(self, n_layers: int) -> tuple[int, ...]:
        """Return the sorted indices of the decoder layers whose base activations are replayed.

        Raises:
            UsageError: an index outside the decoder, one without a fixed threshold, or the last
                layer with the replay of ``reference``.
        """
        fixed = self.fixed_thresholds
        if self.layers == "auto" and fixed is not None:
            chosen = tuple(sorted(fixed))
        elif self.layers == "auto":
            chosen = tuple(range(max(1, 4 * n_layers // 7)))
        elif isinstance(self.layers, int):
            chosen = tuple(range(self.layers))
        else:
            chosen = tuple(sorted(self.layers))
        beyond = [layer for layer in chosen if layer >= n_layers]
        if beyond:
            raise UsageError(
                f"layers={shown(self.layers)} is not possible: the text decoder has {n_layers} "
                f"layers (allowed: at most {n_layers}, or indices 0 to {n_layers - 1})"
            )
        without = [layer for layer in chosen if fixed is not None and layer not in fixed]
        if without and fixed is not None:
            name = self.thresholds if isinstance(self.thresholds, str) else "the given ones"
            raise UsageError(
                f"layers={shown(self.layers)} includes {shown(tuple(without))}, for which "
                f"thresholds={name} has no entropy (allowed: layers "
                f"{shown(tuple(sorted(fixed)))})"
            )
        one_apart = self.boundary == "reference" and self.method != "inject"
        if one_apart and n_layers - 1 in chosen:
            raise UsageError(
                f"layers={shown(self.layers)} includes the last of {n_layers} layers, which "
                "boundary=reference cannot match (allowed: the layers before it, or "
                "boundary=aligned)"
            )
        return chosen

    def check_top_k(self, vocabulary: int) -> None:
        """Raise UsageError where the KL's support is larger than the vocabulary."""
        if self.method == "replay" and self.top_k != "full" and self.top_k > vocabulary:
            raise UsageError(
                f"top_k={shown(self.top_k)} is not possible: the vocabulary has {vocabulary} ids "
                f"(allowed: 2 to {vocabulary}, or full)"
            )

    @property
    def unread(self) -> dict[str, str]:
        """Settings that have no effect beside the others → the setting that leaves them none."""
        alone = set(type(self).model_fields) - {"method", "seed", "strict"}
        found = dict.fromkeys(alone, f"method={self.method}") if not self.steers else {}
        if self.optimizer != "plain":
            found = {"keep": f"optimizer={self.optimizer}"} | found
        if self.method == "inject":
            found |= dict.fromkeys((*_OF_THE_DESCENT, *_HOW_IT_RUNS), "method=inject")
        if self.method == "amortised":
            found |= dict.fromkeys(alone - {"start"}, "method=amortised")
        if self.select == "all":
            found = dict.fromkeys((*_OF_THE_MASK, "thresholds"), "select=all") | found
        if self.thresholds != "dynamic":
            given = self.thresholds if isinstance(self.thresholds, str) else "FILE"
            found = dict.fromkeys(_OF_THE_MASK, f"thresholds={given}") | found
        return found

    @property
    def fixed_thresholds(self) -> Mapping[int, float] | None:
        """The fixed entropies, layer → nats; None where the mask is dynamic."""
        if self.thresholds == "dynamic":
            return None
        return RELEASE_THRESHOLDS if self.thresholds == "release" else self.thresholds

    @property
    def side(self) -> Literal["after", "before"]:
        """Which side of its layers the policy is matched, or overwritten, on."""
        return "before" if self.boundary == "reference" else "after"

    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits that change with any setting that may change a result."""
        unnamed: Any = {**dict.fromkeys(_HOW_IT_RUNS, True), "start": {"path"}}
        named = self.model_dump_json(exclude=unnamed)
        return hashlib.sha256(named.encode()).hexdigest()[:12]
