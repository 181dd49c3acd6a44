"""Markdown tables, and the forms in which the results page gives its numbers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Column = tuple[str, Callable[[Any], str]]
"""A column's heading, and how one row fills it."""


def table(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    """Return a Markdown table with a line per row; heading and cell stand in one place."""
    lines = [_line(heading for heading, _ in columns), "|" + "---|" * len(columns)]
    lines += [_line(fill(row) for _, fill in columns) for row in rows]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, form: str = ".2g") -> str:
    """Return a number in a format, or that there is none."""
    return "undefined" if value is None else f"{value:{form}}"


def share(value: float | None) -> str:
    """Return a share with two decimals, or nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


def ends(interval: Sequence[float | None] | None, form: str = ".2g") -> str:
    """Return an interval's two ends, lower first, or nothing where there is none."""
    if not interval or None in interval:
        return ""
    low, high = interval
    return f"[{low:{form}}, {high:{form}}]"


def points(difference: float, low: float, high: float, unit: str = "") -> str:
    """Return a difference of shares with its interval, in percentage points."""
    return f"{100 * difference:+.1f}{unit} {ends((100 * low, 100 * high), '+.1f')}"
