"""Every knob of the method, in one frozen object that is validated when it is built."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from replay_core.errors import UsageError

Method = Literal["replay", "none", "base"]
Select = Literal["low", "high", "all", "random"]
Boundary = Literal["aligned", "reference"]
Positions = Literal["visual", "input"]


class ReplayConfig(BaseModel):
    """Settings of Activation Replay (Xing et al. 2025, arXiv 2511.19972); defaults as published.

    The published runs use ``threshold`` 0.4 or 0.2, ``step_size`` 10 to 40, 25 steps, and the first
    16 of 28 decoder layers. ``step_size`` does not transfer between image sizes: the step on one
    token is about ``step_size / (N * masked)`` for N visual tokens.

    Raises:
        pydantic.ValidationError: a value outside its range, or an unknown name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "replay"
    """``replay``; ``none``: the policy alone; ``base``: the base alone."""

    select: Select = "low"
    """Which activations are matched: the base's low-entropy ones (the paper's mask), the
    complement, all, or as many as ``low`` at random."""

    boundary: Boundary = "aligned"
    """``aligned``: base after layer l against policy after layer l, in float32. ``reference``: the
    release's reading, base after layer l against policy before layer l, in the model's dtype."""

    top_k: Annotated[int, Field(ge=2)] | Literal["full"] = 50
    """Support of the KL: the base's k most probable ids, renormalised, or the whole vocabulary."""

    positions: Positions = "visual"
    """Candidates of the mask: the visual tokens, or all tokens of the prompt."""

    layers: Literal["auto"] | Annotated[int, Field(ge=1)] | tuple[int, ...] = "auto"
    """``auto``: the first 4/7 of the decoder; n: its first n layers; or the indices themselves."""

    threshold: float = Field(0.4, gt=0, le=1)
    """γ: an activation is low-entropy when its base entropy is at most γ times the sample's largest
    at that layer."""

    step_size: float = Field(10.0, gt=0, allow_inf_nan=False)
    """α of the plain gradient descent on x."""

    steps: int = Field(25, ge=0)
    """Gradient steps; 0 runs the whole path with x = 0."""

    keep: Literal["last", "best"] = "last"
    """Which iterate of x is used: the last one, as published, or the one of the lowest loss."""

    seed: int = Field(0, ge=0)
    """Seed of ``select=random`` and of sampled answers."""

    strict: bool = False
    """Raise what goes wrong inside one sample instead of answering it un-steered."""

    @model_validator(mode="after")
    def _layers_are_distinct(self) -> "ReplayConfig":
        if isinstance(self.layers, tuple):
            if not self.layers:
                raise ValueError("the list of layers is empty; give 'auto', a number or indices")
            if len(set(self.layers)) != len(self.layers) or min(self.layers) < 0:
                raise ValueError(f"layers {list(self.layers)} must be distinct and not negative")
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


def sentence(error: ValidationError, prefix: str = "") -> str:
    """Return a pydantic error as one sentence that quotes what was given and what is allowed.

    ``prefix`` stands before each field's name, as the user typed it (``replay_`` in a harness).
    """
    parts: dict[str, str] = {}
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        reason = detail["msg"].removeprefix("Value error, ")
        given = f"{prefix}{name}={_shown(detail['input'])} is not allowed: " if name else ""
        if name in parts:  # a union reports one line per member
            parts[name] += f", or {reason[0].lower()}{reason[1:]}"
        else:
            parts[name] = given + reason[0].lower() + reason[1:]
    return "; ".join(parts.values())


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
