"""The harness's own scores of every sample and repeat, put beside the records."""

import functools
import os
from pathlib import Path
from typing import Any

from loguru import logger

from replay_adapters.vlmevalkit.journal import Journal, plain, shown
from replay_adapters.vlmevalkit.verdicts import verdicts
from replay_core.jsonl import Line, read_lines

# How the harness's scorers call the column that tells whether an item is right.
_COLUMNS = ("hit", "score", "correct")


def score_every_sample(dataset: Any, journal: Journal) -> None:
    """Let ``dataset.evaluate`` also score the repeats, and write every item's score down.

    Upstream scores one prediction per sample, and returns only averages. Each further repeat is
    scored by the same scorer, from a predictions file below ``replay/DATASET.repeats``.
    """
    original = dataset.evaluate

    @functools.wraps(original)
    def evaluate(eval_file: str, **judge: Any) -> Any:
        outcome = original(eval_file, **judge)
        lines = read_lines(journal.file)
        repeats = min((len(line["predictions"]) for line in lines), default=0)
        files = [Path(eval_file)]
        for repeat in range(1, repeats):
            files.append(_with_predictions(Path(eval_file), lines, repeat, journal))
            original(str(files[-1]), **judge)
        scores = [item_scores(file, type(dataset).__name__) for file in files]
        if not all(scores):
            logger.info(f"replay: {journal.dataset}: its scorer tells no hits item by item")
            return outcome
        for line in lines:
            index = str(line["index"])
            if all(index in score for score in scores):
                line["scores"] = [score[index] for score in scores]
        journal.rewrite(lines)
        return outcome

    dataset.evaluate = evaluate


def item_scores(eval_file: Path, kind: str = "") -> dict[str, float]:
    """Return index (as text) → 0 or 1, from what a scorer left beside a predictions file.

    ``kind`` is the name of the set's class, whose own comparison is asked where no column says it.
    Empty where neither does. An answer that a scorer rejected (-1) counts as wrong.
    """
    from vlmeval.smp import load

    beside = [
        load(str(path))
        for path in sorted(eval_file.parent.glob(f"{eval_file.stem}_*"))
        if path.suffix in {".xlsx", ".tsv", ".csv", ".json"}
    ]
    for table in beside:
        columns = getattr(table, "columns", ())
        found = [column for column in _COLUMNS if column in columns]
        if _has_index(table) and found:
            values = zip(table["index"], table[found[0]], strict=True)
            return {str(plain(index)): max(0.0, float(value)) for index, value in values}
    found_here = verdicts(eval_file, kind, [table for table in beside if _has_index(table)])
    return {str(plain(index)): value for index, value in found_here.items()}


def _has_index(table: Any) -> bool:
    return "index" in getattr(table, "columns", ())


def _with_predictions(eval_file: Path, lines: list[Line], repeat: int, journal: Journal) -> Path:
    """Write the predictions file with another repeat's answers and return its path."""
    from vlmeval.smp import dump, load

    answers = {str(line["index"]): shown(line["predictions"][repeat]) for line in lines}
    if os.getenv("SPLIT_THINK"):  # as the harness has done with the first repeat's
        answers = {k: text.rpartition("</think>")[2].strip() for k, text in answers.items()}
    table = load(str(eval_file))
    table["prediction"] = [answers[str(plain(index))] for index in table["index"]]
    folder = journal.folder / f"{journal.dataset}.repeats" / str(repeat)
    folder.mkdir(parents=True, exist_ok=True)
    # Not under the model's name, by which readers of a run would take it for the run's own file.
    path = folder / f"repeat{repeat}_{journal.dataset}{eval_file.suffix}"
    dump(table, str(path))
    return path
