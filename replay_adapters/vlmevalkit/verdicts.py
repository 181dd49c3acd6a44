"""Whether one item was right, where a set's scorer leaves no column that says so.

MathVista, MathVision and VideoMMMU keep what was taken out of each answer, and compare it with the
right one when they add all up; WeMath does so without a judge. What compares it there is called
here for one item at a time, in the process that scored the set.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = Any
"""A row of a table, by the names of its columns."""
# What VideoMMMU takes an open question for that was answered with nothing; it is left out there.
LEFT_OUT = "API Error"


def verdicts(eval_file: Path, kind: str, tables: list[Any]) -> dict[Any, float]:
    """Return index → 0 or 1 for a predictions file; empty where the set has no such scorer.

    ``kind`` is the name of the set's class, ``tables`` what its scorer left beside the file.
    """
    if kind == "WeMath":
        return _wemath(eval_file)
    found = _SCORERS.get(kind)
    if found is None:
        return {}
    column, scorer = found
    table = next((each for each in tables if column in getattr(each, "columns", ())), None)
    if table is None:
        return {}
    right = scorer()
    return {row["index"]: float(right(row)) for _, row in table.iterrows()}


def _wemath(eval_file: Path) -> dict[Any, float]:
    from vlmeval.dataset.utils.wemath import load_and_process_data

    table = load_and_process_data(str(eval_file))
    return dict(zip(table["index"], table["joker"].astype(float), strict=True))


def _mathvista() -> Callable[[Row], Any]:
    from vlmeval.dataset.utils.mathvista import post_check

    return lambda row: post_check(row, prefetch=False)


def _mathvision() -> Callable[[Row], Any]:
    from vlmeval.dataset.utils.mathv import post_check

    return lambda row: post_check(row, prefetch=False)


def _videommmu() -> Callable[[Row], Any]:
    from vlmeval.dataset.videommmu import evaluate_mmmu

    def right(row: Row) -> bool:
        return row["parsed_pred"] != LEFT_OUT and bool(evaluate_mmmu([row])[1]["hit"])

    return right


# Class of a set → the column of its scorer's table, and what compares one row of it.
_SCORERS: dict[str, tuple[str, Callable[[], Callable[[Row], Any]]]] = {
    "MathVista": ("res", _mathvista),
    "MathVision": ("res", _mathvision),
    "VideoMMMU": ("parsed_pred", _videommmu),
}
