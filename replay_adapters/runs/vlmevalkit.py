"""Runs of VLMEvalKit, read back from the tables that its scorers leave beside predictions."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from replay_adapters.runs.run import (
    Item,
    RunLog,
    argument_facts,
    flat,
    plugin_facts,
    published_metrics,
    score,
)
from replay_core import UsageError
from replay_core.jsonl import read_lines

# How the harness's scorers call the column that tells whether an item is right.
_COLUMNS = ("hit", "score", "correct")
# Columns whose values name parts of a set: HR-Bench's single and cross, MMMU's dev and validation.
_PARTS = ("category", "split")
# What a scorer writes that could not score an answer.
_REJECTED = -1
_OPTIONS = "ABCDEFGHIJ"
Row = dict[str, Any]


def vlmevalkit_runs(folder: Path) -> dict[str, Callable[[str | None], RunLog]]:
    """Return task → reader of its newest table with a score per item; a reader takes the metric.

    A metric is a column of that table, or the name of a part of the set (a ``category`` or
    ``split``), whose items are then scored by the usual column.
    """
    found: dict[str, Callable[[str | None], RunLog]] = {}
    tables = [p for p in folder.rglob("*") if p.suffix in (".tsv", ".xlsx", ".csv", ".json")]
    results = [p for p in tables if p.stem.endswith(("_result", "_score"))]
    for path in sorted(results, key=lambda p: p.stat().st_mtime):
        beside = [p for p in tables if p.parent == path.parent and p != path]
        predictions = [p for p in beside if path.stem.startswith(f"{p.stem}_")]
        if not predictions:
            continue
        prediction = min(predictions, key=lambda p: len(p.stem))
        model = next(
            (p.name for p in path.parents if prediction.stem.startswith(f"{p.name}_")), None
        )
        if model is None:
            continue
        task = prediction.stem.removeprefix(f"{model}_")
        judge = path.stem.removeprefix(prediction.stem)
        judge = judge.removesuffix("_result").removesuffix("_score").strip("_") or "none"
        found[task] = lambda metric, p=path, q=prediction, t=task, j=judge: _read(
            p, q, t, metric, j
        )
    return found


def _read(path: Path, prediction: Path, task: str, metric: str | None, judge: str) -> RunLog:
    table = _table(path)
    metric = metric or _published(table, task)
    column, rows = _scored(path, table, metric)
    named = metric or column
    summary, logged = _journal(path, task)
    items: dict[Any, Item] = {}
    unscored = 0
    for row in rows:
        index = str(row["index"])
        if row["index"] != row["index"] or index in items:
            what = "stands twice" if index in items else "has no index"
            raise UsageError(f"document {index} of task {task} {what} in {path}")
        value = score(_number(row[column]), named, task, index, path)
        if column in _COLUMNS and value == _REJECTED:
            unscored, value = unscored + 1, 0.0
        items[index] = replace(_item(row, value), **logged.get(index, {}))
    facts = plugin_facts(summary) if summary else argument_facts({})
    facts["judge"] = {"judge": judge}
    return RunLog(
        *("VLMEvalKit", task, named, prediction, items, facts),
        settings=summary,
        beside=(path,),
        unscored=unscored,
    )


def journal_run(folder: Path, task: str, score: Callable[[Any, str], float]) -> RunLog:
    """Return the newest run of a set below ``folder`` that the harness has no scorer for.

    ``score`` takes an item's index and its first answer. All is read from what the adapter keeps
    beside the predictions.

    Raises:
        UsageError: there is no such run.
    """
    found = sorted(folder.rglob(f"replay/{task}.jsonl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(f"{folder} holds no answers of {task}; run vlmeval_replay again")
    path = found[-1]
    items = {
        line["index"]: Item(score(line["index"], line["predictions"][0]), **_logged(line))
        for line in read_lines(path)
    }
    totals = path.with_suffix(".totals.json")
    summary = json.loads(totals.read_text(encoding="utf-8"))
    predictions = tuple(sorted(path.parents[1].rglob(f"*_{task}.tsv")))
    return RunLog(
        *("VLMEvalKit", task, "score", path, items, plugin_facts(summary)),
        settings=summary,
        beside=(totals, *predictions),
    )


def _published(table: Any, task: str) -> str | None:
    """Return the metric that the paper's number is of, where the table has one."""
    cells = {str(cell) for part in _PARTS if part in table.columns for cell in table[part]}
    return next((m for m in published_metrics(task) if m in table.columns or m in cells), None)


def _scored(path: Path, table: Any, metric: str | None) -> tuple[str, list[Row]]:
    """Return the column with the scores, and the rows that the metric is about."""
    rows = table.to_dict("records")
    parts = [part for part in _PARTS if part in table.columns]
    columns = [metric] if metric in table.columns else list(_COLUMNS)
    if metric is not None and metric not in table.columns:
        part = next((p for p in parts if metric in {str(row[p]) for row in rows}), None)
        rows = [row for row in rows if part is not None and str(row[part]) == metric]
    column = next((name for name in columns if name in table.columns), None)
    if column is None or "index" not in table.columns or not rows:
        wanted = " or ".join(columns if metric is None else [metric])
        raise UsageError(
            f"{path} has no scores by {wanted} beside an 'index' (its columns: "
            f"{', '.join(map(str, table.columns))}; parts of the set: {', '.join(parts) or 'none'})"
        )
    return column, rows


def _item(row: Row, value: float) -> Item:
    options = [f"{letter}. {row[letter]}" for letter in _OPTIONS if letter in row]
    return Item(
        value,
        asked="\n".join([str(row.get("question", "")), *options]),
        target=str(row.get("answer", "")),
        fields=flat({str(name): cell for name, cell in row.items()}),
    )


def _number(cell: Any) -> Any:
    """Return the number that a cell's text is: one odd cell makes text of a whole column."""
    try:
        return float(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell


def _journal(path: Path, task: str) -> tuple[dict[str, Any], dict[str, Row]]:
    """Return the settings that the adapter keeps beside predictions, and index → what it logs."""
    folders = [parent / "replay" for parent in path.parents]
    folder = next((where for where in folders if (where / "settings.json").is_file()), None)
    if folder is None:
        return {}, {}
    try:
        summary = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        lines = read_lines(folder / f"{task}.jsonl")
    except ValueError as error:
        raise UsageError(f"{folder} holds a file that is no JSON ({error})") from error
    return summary, {str(line["index"]): _logged(line) for line in lines}


def _logged(line: Row) -> Row:
    """Return what a line of the adapter's journal says of an item, by the names of its fields."""
    return {
        "answers": line.get("predictions") or (),
        "scores": line.get("scores") or (),
        "records": line.get("replay") or (),
    }


def _table(path: Path) -> Any:
    import pandas as pd

    readers: dict[str, Callable[[], Any]] = {
        ".xlsx": lambda: pd.read_excel(path),
        ".csv": lambda: pd.read_csv(path),
        ".tsv": lambda: pd.read_csv(path, sep="\t"),
        ".json": lambda: pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))),
    }
    try:
        return readers[path.suffix]()
    except (ValueError, ImportError, BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as a table ({error})") from error
