"""Runs of VLMEvalKit, read back from the tables that its scorers leave beside predictions."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from replay_adapters.settings.benchmarks import benchmark_of
from replay_core import UsageError
from replay_core.errors import shown
from replay_core.jsonl import read_lines

# How the harness's scorers call the column that tells whether an item is right.
_COLUMNS = ("hit", "score", "correct")
# Columns whose values name parts of a set: HR-Bench's single and cross, MMMU's dev and validation.
_PARTS = ("category", "split")
# What a scorer writes that could not score an answer, and what VideoMMMU's leaves out.
_REJECTED = -1
_LEFT_OUT = ("parsed_pred", "API Error")
# The column in which a run's own journal has the scores of a set whose scorer leaves no other.
_LOGGED = "the run's journal"
_OPTIONS = "ABCDEFGHIJ"
_TABLES = (".tsv", ".xlsx", ".csv", ".json")
# How the harness ends the names of files that are about the whole set.
_SUMMARIES = ("_acc", "_rating", "_fine", "_metrics", "_config", "_meta")
Row = dict[str, Any]


def vlmevalkit_runs(folder: Path) -> dict[str, Callable[[str | None], RunLog]]:
    """Return task → reader of its newest predictions that were scored; a reader takes the metric.

    A metric is a column of the scorer's table, or the name of a part of the set (a ``category`` or
    ``split``), whose items are then scored by the usual column.
    """
    found: dict[str, Callable[[str | None], RunLog]] = {}
    tables = [path for path in folder.rglob("*") if path.suffix in _TABLES]
    scored: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in sorted(tables, key=lambda path: path.stat().st_mtime, reverse=True):
        known = _predictions(path, tables)
        if known is not None:
            scored[known].append(path)
    for (prediction, task), beside in reversed(scored.items()):
        found[task] = lambda metric, q=prediction, t=task, b=beside: _read(q, t, b, metric)
    return found


def _predictions(path: Path, tables: Sequence[Path]) -> tuple[Path, str] | None:
    """Return the predictions that a scorer's table is of, and their task; None for other tables.

    Predictions are called MODEL_TASK, in a folder below MODEL, and a scorer's tables
    MODEL_TASK_JUDGE… in the same: where a task's name begins with another one's, as
    MMMU_Pro_10c_COT, the longest that is known to be a task is meant.
    """
    models = [parent.name for parent in path.parents if path.stem.startswith(f"{parent.name}_")]
    if not models or path.stem.endswith(_SUMMARIES):
        return None
    beside = (p for p in tables if p.parent == path.parent and p.stem.startswith(f"{models[0]}_"))
    begun = [p for p in beside if path.stem.startswith(f"{p.stem}_")]
    tasks = {p: p.stem.removeprefix(f"{models[0]}_") for p in begun}
    if not begun:
        return None
    known = [p for p in begun if benchmark_of(tasks[p]) or _journal_of(path, tasks[p])]
    longest, shortest = sorted(known, key=_length), sorted(begun, key=_length)
    found = longest[-1] if longest else shortest[0]
    return found, tasks[found]


def _length(path: Path) -> int:
    return len(path.stem)


def _read(prediction: Path, task: str, beside: Sequence[Path], metric: str | None) -> RunLog:
    summary, logged = _journal(prediction, task)
    path, table = _scorers_table(prediction, task, beside, logged)
    metric = metric or _published(table, task)
    column, rows = _scored(path, table, metric)
    named = metric or (column if column in _COLUMNS else "score")
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
        unscored += row.get(_LEFT_OUT[0]) == _LEFT_OUT[1]
        items[index] = replace(_item(row, value), **logged.get(index, {}))
    facts = plugin_facts(summary) if summary else argument_facts({})
    facts["judge"] = {"judge": _judge(path, prediction)}
    return RunLog(
        *("VLMEvalKit", task, named, prediction, items, facts),
        settings=summary,
        beside=(path,),
        unscored=unscored,
    )


def _scorers_table(
    prediction: Path, task: str, beside: Sequence[Path], logged: Mapping[str, Row]
) -> tuple[Path, Any]:
    """Return the newest table with a score per item, and where it lies.

    Where a scorer leaves no such column, scores are those that the run's journal has of the set's
    own comparison.

    Raises:
        UsageError: there are none of either kind.
    """
    tables = [(path, _table(path)) for path in beside]
    rows = [(path, table) for path, table in tables if "index" in table.columns]
    for path, table in rows:
        if any(column in table.columns for column in _COLUMNS):
            return path, table
    # Without a judge, WeMath's scorer looks at the predictions themselves.
    path, table = rows[0] if rows else (beside[0], _table(prediction))
    scores = {index: line["scores"][0] for index, line in logged.items() if line["scores"]}
    if not scores or "index" not in table.columns:
        seen = {str(column) for _, table in tables for column in table.columns}
        raise UsageError(
            f"{prediction} has no scores by {' or '.join(_COLUMNS)} beside an 'index' (columns of "
            f"what its scorer left: {', '.join(sorted(seen)) or 'none'}), and {task}'s scores are "
            "not in its journal; runs of vlmeval_replay keep them there"
        )
    return path, table.assign(**{_LOGGED: [scores.get(str(index)) for index in table["index"]]})


def _judge(path: Path, prediction: Path) -> str:
    """Return the judge in the name of a scorer's table; ``none`` where it names none."""
    judge = path.stem.removeprefix(prediction.stem)
    return judge.removesuffix("_result").removesuffix("_score").strip("_") or "none"


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
    columns = [metric] if metric in table.columns else [*_COLUMNS, _LOGGED]
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


def _kept(path: Path) -> Path | None:
    """Return the adapter's folder of the model that a table lies below, if it answered."""
    folders = (parent / "replay" for parent in path.parents)
    return next((where for where in folders if (where / "settings.json").is_file()), None)


def _journal_of(path: Path, task: str) -> bool:
    """Return whether the model that a table lies below has a journal of a task."""
    folder = _kept(path)
    return folder is not None and (folder / f"{task}.jsonl").is_file()


def _journal(path: Path, task: str) -> tuple[dict[str, Any], dict[str, Row]]:
    """Return the settings that the adapter keeps beside predictions, and index → what it logs."""
    folder = _kept(path)
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
    except (ValueError, KeyError, OSError, ImportError, RecursionError, BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as a table ({shown(error)})") from error
