"""The table of every replay arm that was measured while the embedded pairs were made."""

import csv
from pathlib import Path

from replay_adapters.studies.markdown import Column, table
from replay_core.studies.stats.resampling import holm

Row = dict[str, str]


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
    folded = f"<details><summary>The arms</summary>\n\n{table(COLUMNS, shown)}\n\n</details>"
    return f"{text}\n\n{folded}"


def _arm(row: Row) -> str:
    parts = [row["method"], row["select"] + (f" γ {row['threshold']}" if row["threshold"] else "")]
    if row["step_size"]:
        parts.append(f"α {float(row['step_size']):g}")
    if row["layers"] != "4":
        parts.append(f"{row['layers']} layers")
    return ", ".join(parts)


def _documents(row: Row) -> str:
    return row["documents"] + ("" if row["noise"] == "5-25" else f", pixel noise {row['noise']}")


COLUMNS: tuple[Column, ...] = (
    ("policy", lambda row: row["policy"]),
    ("tried because", lambda row: row["reason"]),
    ("documents", _documents),
    ("n", lambda row: row["n"]),
    ("base", lambda row: row["base"]),
    ("policy alone", lambda row: row["policy_accuracy"]),
    ("arm", _arm),
    ("answers", lambda row: row["accuracy"]),
    ("fixed/broken", lambda row: f"{row['fixed']}/{row['broken']}"),
    ("p", lambda row: row["p"]),
    ("Holm's p", lambda row: row["holm_p"]),
    ("KL after/before", lambda row: row["loss_ratio"]),
)
