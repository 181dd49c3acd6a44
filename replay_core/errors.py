"""The exceptions of this package, and the sentences that refusals are made of."""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError


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
    for detail in error.errors():
        name = str(detail["loc"][0]) if detail["loc"] else ""
        field = model.model_fields.get(name)
        if detail["type"] == "missing":
            reason = f"{prefix}{name} is missing"
        elif detail["type"] == "extra_forbidden":
            reason = f"{prefix}{name} is not known (allowed: {', '.join(model.model_fields)})"
        elif field is None or field.description is None:
            given = f"{name}={shown(detail['input'])}: " if name else ""
            reason = prefix + given + detail["msg"].removeprefix("Value error, ")
        else:
            given = f"{prefix}{name}={shown(detail['input'])}"
            reason = f"{given} is not allowed (allowed: {field.description})"
        reasons.setdefault(name, reason)  # a union reports a line per member
    return "; ".join(reasons.values())


def shown(value: object) -> str:
    """Return a setting as it is typed."""
    return str(list(value)) if isinstance(value, tuple) else str(value)
