"""The table of every replay arm that was measured while the embedded pairs were made."""

import csv
from collections.abc import Sequence
from pathlib import Path

from replay_core.studies.resampling import holm

Row = dict[str, str]


def search_section(table: Path) -> str:
    """Return the results page's section on RL seeds and on what was tried, from ``search.csv``.

    Raises:
        OSError: there is no such table.
        KeyError: it lacks a column.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    replayed = [row for row in rows if row["method"] == "replay"]
    adjusted = dict(
        zip(map(id, replayed), holm([float(row["p"]) for row in replayed]), strict=True)
    )
    clear = sum(p < 0.05 for p in adjusted.values())
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
    lines = [
        "| policy | tried because | documents | n | base | policy | arm | answers | fixed/broken | "
        "p | Holm's p | KL after/before |",
        "|" + "---|" * 12,
    ]
    lines += [_line(row, adjusted.get(id(row))) for row in rows]
    folded = "<details><summary>The arms</summary>\n\n" + "\n".join(lines) + "\n\n</details>"
    return f"{text}\n\n{folded}"


def _line(row: Row, adjusted: float | None) -> str:
    cells: Sequence[str] = (
        row["policy"],
        row["reason"],
        row["documents"] + ("" if row["noise"] == "5-25" else f", pixel noise {row['noise']}"),
        row["n"],
        row["base"],
        row["policy_accuracy"],
        _arm(row),
        row["accuracy"],
        f"{row['fixed']}/{row['broken']}",
        row["p"],
        "" if adjusted is None else f"{adjusted:.2g}",
        row["loss_ratio"],
    )
    return "| " + " | ".join(cells) + " |"


def _arm(row: Row) -> str:
    parts = [row["method"], row["select"] + (f" γ {row['threshold']}" if row["threshold"] else "")]
    if row["step_size"]:
        parts.append(f"α {float(row['step_size']):g}")
    if row["layers"] != "4":
        parts.append(f"{row['layers']} layers")
    return ", ".join(parts)
