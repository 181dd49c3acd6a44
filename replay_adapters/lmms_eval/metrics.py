"""The number that a task of lmms-eval gives one document under a metric's name."""

import math
from collections.abc import Mapping
from typing import Any

# Under what a task's table for a document holds its score, where the task does not say.
_SCORE_KEYS = ("score", "acc", "accuracy", "correct", "gpt_score")


def raw_score(metrics: Mapping[str, Any], name: str | None, score_key: str) -> Any:
    """Return what a task gives one document under a metric's name; None for nothing.

    Of a table that is its score, where it has one.
    """
    value = metrics.get(name) if name else None
    if isinstance(value, Mapping):
        return next((value[key] for key in (score_key, *_SCORE_KEYS) if key in value), None)
    return value


def number(metrics: Mapping[str, Any], name: str | None, score_key: str) -> float | None:
    """Return the finite number that a task gives one document under a metric's name, if any."""
    value = raw_score(metrics, name, score_key)
    usable = isinstance(value, bool | int | float) and math.isfinite(value)
    return float(value) if usable else None
