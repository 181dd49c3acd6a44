"""Every knob of the method, in one frozen object that is validated when it is built."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from replay_core.errors import UsageError

Method = Literal["replay", "none", "base"]
Select = Literal["low", "high", "all", "random"]
Boundary = Literal["aligned", "reference"]
Positions = Literal["visual", "input"]
Index = Annotated[int, Field(ge=0)]


class ReplayConfig(BaseModel):
    """Settings of Activation Replay (Xing et al. 2025, arXiv 2511.19972); defaults as published.

    The published runs use ``threshold`` 0.4 or 0.2, ``step_size`` 10 to 40, 25 steps, and the first
    16 of 28 decoder layers. ``step_size`` does not transfer between image sizes: the step on one
    token is about ``step_size / (N * masked)`` for N visual tokens.

    Raises:
        pydantic.ValidationError: a value outside its range, or an unknown name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field("replay", description="replay, none or base")
    """``replay``; ``none``: the policy alone; ``base``: the base alone."""

    select: Select = Field("low", description="low, high, all or random")
    """Which activations are matched: the base's low-entropy ones (the paper's mask), the
    complement, all, or as many as ``low`` at random."""

    boundary: Boundary = Field("aligned", description="aligned or reference")
    """``aligned``: base after layer l against policy after layer l, in float32. ``reference``: the
    release's reading, base after layer l against policy before layer l, in the model's dtype."""

    top_k: Annotated[int, Field(ge=2)] | Literal["full"] = Field(
        50, description="a whole number from 2 on, or full"
    )
    """Support of the KL: the base's k most probable ids, renormalised, or the whole vocabulary."""

    positions: Positions = Field("visual", description="visual or input")
    """Candidates of the mask: the visual tokens, or all tokens of the prompt."""

    layers: Literal["auto"] | Annotated[int, Field(ge=1)] | tuple[Index, ...] = Field(
        "auto", description="auto, a number of layers from 1 on, or distinct indices as in [0,1,2]"
    )
    """``auto``: the first 4/7 of the decoder; n: its first n layers; or the indices themselves."""

    threshold: float = Field(0.4, gt=0, le=1, description="a number above 0, at most 1")
    """γ: an activation is low-entropy when its base entropy is at most γ times the sample's largest
    at that layer."""

    step_size: float = Field(10.0, gt=0, allow_inf_nan=False, description="a finite number above 0")
    """α of the plain gradient descent on x."""

    steps: int = Field(25, ge=0, description="a whole number from 0 on")
    """Gradient steps; 0 runs the whole path with x = 0."""

    keep: Literal["last", "best"] = Field("last", description="last or best")
    """Which iterate of x is used: the last one, as published, or the one of the lowest loss."""

    seed: int = Field(0, ge=0, description="a whole number from 0 on")
    """Seed of ``select=random`` and of sampled answers."""

    strict: bool = Field(False, description="true or false")
    """Raise what goes wrong inside one sample instead of answering it un-steered."""

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> "ReplayConfig":
        if isinstance(self.layers, tuple) and not 0 < len(set(self.layers)) == len(self.layers):
            raise ValueError(f"layers={_shown(self.layers)} must be distinct indices, at least one")
        return self

    def layer_indices(self, n_layers: int) -> tuple[int, ...]:
        """Return the sorted indices of the decoder layers whose base activations are replayed.

        Raises:
            UsageError: an index outside the decoder, or the last layer with ``reference``.
        """
        if self.layers == "auto":
            chosen = tuple(range(max(1, 4 * n_layers // 7)))
        elif isinstance(self.layers, int):
            chosen = tuple(range(self.layers))
        else:
            chosen = tuple(sorted(self.layers))
        beyond = [layer for layer in chosen if layer >= n_layers]
        if beyond:
            raise UsageError(
                f"layers={_shown(self.layers)} is not possible: the text decoder has {n_layers} "
                f"layers (allowed: at most {n_layers}, or indices 0 to {n_layers - 1})"
            )
        if self.boundary == "reference" and n_layers - 1 in chosen:
            raise UsageError(
                f"layers={_shown(self.layers)} includes the last of {n_layers} layers, which "
                "boundary=reference cannot match (allowed: the layers before it, or "
                "boundary=aligned)"
            )
        return chosen

    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits that change with any setting."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def sentence(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return why ``model`` refused its input: one sentence, with what was given and is allowed.

    What is allowed is the field's ``description``. ``prefix`` stands before each field's name, as
    the user typed it (``replay_`` in a harness).
    """
    reasons: dict[str, str] = {}
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        field = model.model_fields.get(name)
        if detail["type"] == "missing":
            reason = f"{prefix}{name} is missing"
        elif detail["type"] == "extra_forbidden":
            reason = f"{prefix}{name} is not known (allowed: {', '.join(model.model_fields)})"
        elif field is None or field.description is None:
            given = f"{name}={_shown(detail['input'])}: " if name else ""
            reason = prefix + given + detail["msg"].removeprefix("Value error, ")
        else:
            given = f"{prefix}{name}={_shown(detail['input'])}"
            reason = f"{given} is not allowed (allowed: {field.description})"
        reasons.setdefault(name, reason)  # a union reports a line per member
    return "; ".join(reasons.values())


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
