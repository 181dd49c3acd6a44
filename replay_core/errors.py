"""The exceptions of this package, and the sentences that refusals are made of."""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

# How many faults one sentence tells of.
_REASONS = 2


class UsageError(ValueError):
    """What was asked for cannot be done.

    The message is one sentence that quotes what was given and what is allowed; a launcher prints
    it without a traceback and exits with a non-zero code.
    """


class ReplayError(RuntimeError):
    """A sample's loop went wrong, and ``strict`` asked to hear of it."""


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``did you mean NAME? `` for the known name nearest to ``name``; empty without one."""
    near = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]}? " if near else ""


def sentence(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return why ``model`` refused its input: one sentence, with what was given and is allowed.

    What is allowed is the field's ``description``. ``prefix`` stands before each field's name, as
    the user typed it (``replay_`` in a harness).
    """
    reasons: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        path = [str(part) for part in detail["loc"]]
        owner, field = _found(model, path)
        name = shown(prefix + ".".join(path[: _depth(model, path)]))
        if detail["type"] == "missing":
            reason = f"{name} is missing"
        elif detail["type"] == "extra_forbidden":
            reason = f"{name} is not known (allowed: {', '.join(owner.model_fields)})"
        elif field is None or field.description is None:
            given = f"{name}={shown(detail['input'])}: " if path else prefix
            reason = given + " ".join(detail["msg"].removeprefix("Value error, ").split())
        else:
            given = f"{name}={shown(detail['input'])}"
            reason = f"{given} is not allowed (allowed: {field.description})"
        reasons.setdefault(name, reason)  # a union reports a line per member
    told, more = list(reasons.values())[:_REASONS], len(reasons) - _REASONS
    return "; ".join([*told, *([f"and {more} more"] if more > 0 else [])])


def _found(model: type[BaseModel], path: Sequence[str]) -> tuple[type[BaseModel], Any]:
    """Return the model that holds the last field of a path that is one, and that field."""
    owner, field = model, None
    for name in path[: _depth(model, path)]:
        owner = _model_of(field) or owner
        field = _field(owner, name)
    return owner, field


def _field(model: type[BaseModel], name: str) -> Any:
    """Return a model's field, by its name or as it is typed; None where there is none."""
    aliases = {field.alias: field for field in model.model_fields.values() if field.alias}
    return model.model_fields.get(name) or aliases.get(name)


def _depth(model: type[BaseModel], path: Sequence[str]) -> int:
    """Return how many parts of a path are fields, of models within models."""
    for depth, name in enumerate(path, start=1):
        inner = _model_of(_field(model, name))
        if inner is None:
            return depth
        model = inner
    return len(path)


def _model_of(field: Any) -> type[BaseModel] | None:
    """Return the model that a field holds, or may hold beside None."""
    kind = getattr(field, "annotation", None)
    kinds = (kind, *get_args(kind))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def shown(value: object, most: int = 80) -> str:
    """Return a setting as it is typed, on one line, its first ``most`` characters."""
    text = _typed(value)
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    if len(text) <= most:
        return printable
    return f"{printable[:most]}… ({len(text)} characters)"


def _typed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    try:
        return str(value)
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return "a number of more than 4,300 digits"
