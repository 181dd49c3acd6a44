"""The tables of the results page in Markdown, and the forms in which it gives its numbers."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from replay_core.studies.drift import DriftResult, Shape
from replay_core.studies.grid import Cell, GridResult
from replay_core.studies.passk import TOLD, PassAt, PassKResult
from replay_core.studies.perturbation import PerturbationResult
from replay_core.studies.stats.resampling import holm
from replay_core.studies.trial import TrialResult

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


def arms_table(study: TrialResult) -> str:
    """Return how many documents answered, and a line per arm of a study."""
    columns: list[Column] = [
        ("arm", lambda row: row.arm),
        ("none", lambda row: f"{row.baseline:.3f}"),
        ("score", lambda row: f"{row.score:.3f}"),
        ("difference (points)", lambda row: points(row.difference, row.low, row.high)),
        ("fixed/broken", lambda row: f"{row.fixed}/{row.broken}"),
        ("p", lambda row: f"{row.p:.2g}"),
        ("Holm's p", lambda row: f"{row.holm_p:.2g}"),
        ("MDE", lambda row: f"{100 * row.minimum_detectable:.1f}"),
        ("masked", lambda row: share(row.masked)),
        ("seconds", lambda row: f"{row.seconds:.3f}"),
    ]
    rows = list(study.arms.values())
    return f"n = {rows[0].n}.\n\n{table(columns, rows)}"


def drift_table(found: DriftResult) -> str:
    """Return a line per kind of positions and model."""

    def versus(shape: Shape) -> str:
        value = shape.log_ratio_of_policy_to_this
        return "" if value is None else f"{value:+.2f} {ends(shape.log_ratio_interval)}"

    columns: list[Column] = [
        ("positions", lambda row: row[0]),
        ("model", lambda row: row[1]),
        ("mean KL (nats)", lambda row: number(row[2].mean_kl)),
        ("top-1 agreement", lambda row: number(row[2].agreement, ".3f")),
        (
            "KL low / KL high entropy",
            lambda row: f"{number(row[2].low_over_high)} {ends(row[2].low_over_high_interval)}",
        ),
        ("log ratio of policy to this", lambda row: versus(row[2])),
    ]
    kinds = {"visual": found.visual, "text": found.text}
    rows = [(kind, model, its) for kind, models in kinds.items() for model, its in models.items()]
    return table(columns, rows)


def rho_table(found: PerturbationResult) -> str:
    """Return a line per outcome of the answers and correlation."""
    columns: list[Column] = [
        ("answers", lambda row: row[0]),
        ("correlation", lambda row: row[1]),
        ("items", lambda row: str(row[2].n)),
        ("mean ρ", lambda row: f"{number(row[2].rho, '+.2f')} {ends(row[2].interval)}"),
    ]
    kinds = {"right": found.right, "wrong": found.wrong}
    rows = [(kind, name, rho) for kind, named in kinds.items() for name, rho in named.items()]
    return table(columns, rows)


def fixed_table(grid: GridResult) -> str:
    """Return each fixed-threshold cell of a grid below the dynamic one of the same values."""

    def told(cell: Cell) -> str:
        kind = "fixed per layer" if cell.thresholds == "fixed" else "dynamic"
        return f"γ={cell.gamma:g} α={cell.alpha:g}, {kind}"

    columns: list[Column] = [
        ("thresholds", told),
        ("difference (points)", lambda row: f"{100 * row.difference:+.1f}"),
        ("fixed/broken", lambda row: f"{row.fixed}/{row.broken}"),
        ("p", lambda row: f"{row.p:.2g}"),
        ("masked", lambda row: share(row.masked)),
    ]
    fixed = [cell for cell in grid.cells.values() if cell.thresholds == "fixed"]
    rows = [one for cell in fixed for one in (grid.at(cell.gamma, cell.alpha), cell)]
    return table(columns, rows) if rows else "No documents were left for fixed thresholds."


def pass_table(study: PassKResult) -> str:
    """Return Pass@K of every arm, and its difference from the policy's at the last K."""
    ks = [k for k in TOLD if any(k in curve for curve in study.arms.values())]

    def gap(at: PassAt | None) -> str:
        if at is None or at.difference is None:
            return ""
        return points(at.difference, at.difference_low, at.difference_high)

    def passed(k: int) -> Column:
        return f"Pass@{k}", lambda row: f"{row[1][k].share:.3f}" if k in row[1] else ""

    columns: list[Column] = [("arm", lambda row: row[0]), *map(passed, ks)]
    columns.append((f"difference from policy @{ks[-1]}", lambda row: gap(row[1].get(ks[-1]))))
    first = next(at for curve in study.arms.values() for at in curve.values())
    return f"n = {first.n} items.\n\n{table(columns, study.arms.items())}"


def search_section(path: Path) -> str:
    """Return the results page's section on RL seeds and on what was tried, from ``search.csv``.

    Raises:
        OSError: there is no such table.
        KeyError: it lacks a column.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    replayed = [row for row in rows if row["method"] == "replay"]
    corrected = holm([float(row["p"]) for row in replayed])
    adjusted = {id(row): f"{p:.2g}" for row, p in zip(replayed, corrected, strict=True)}
    clear = sum(p < 0.05 for p in corrected)
    policies = len({row["policy"] for row in rows})
    text = (
        "## RL seeds, and the search for good RLVR that replay helps\n\n"
        f"{len(rows)} arms of {policies} policies, in the order in which they were measured with "
        "[`search.py`](search.py) and kept, null or not; the policies were trained with "
        "[`train.py`](train.py), whose recipes have these names. The two scripts make this table "
        "again, `make results` only prints it. p is against the policy alone; Holm's p is "
        f"adjusted over the {len(replayed)} arms of replay here, of which {clear} stay below 0.05. "
        "`inject` and `random x` are controls. A policy is good RLVR where it is above its base."
    )
    shown = [row | {"holm_p": adjusted.get(id(row), "")} for row in rows]
    folded = f"<details><summary>The arms</summary>\n\n{table(SEARCHED, shown)}\n\n</details>"
    return f"{text}\n\n{folded}"


def _searched_arm(row: dict[str, str]) -> str:
    parts = [row["method"], row["select"] + (f" γ {row['threshold']}" if row["threshold"] else "")]
    if row["step_size"]:
        parts.append(f"α {float(row['step_size']):g}")
    if row["layers"] != "4":
        parts.append(f"{row['layers']} layers")
    return ", ".join(parts)


def _documents(row: dict[str, str]) -> str:
    return row["documents"] + ("" if row["noise"] == "5-25" else f", pixel noise {row['noise']}")


SEARCHED: tuple[Column, ...] = (
    ("policy", lambda row: row["policy"]),
    ("tried because", lambda row: row["reason"]),
    ("documents", _documents),
    ("n", lambda row: row["n"]),
    ("base", lambda row: row["base"]),
    ("policy alone", lambda row: row["policy_accuracy"]),
    ("arm", _searched_arm),
    ("answers", lambda row: row["accuracy"]),
    ("fixed/broken", lambda row: f"{row['fixed']}/{row['broken']}"),
    ("p", lambda row: row["p"]),
    ("Holm's p", lambda row: row["holm_p"]),
    ("KL after/before", lambda row: row["loss_ratio"]),
)
