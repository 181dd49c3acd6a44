"""The scores of every logged answer of a run, where a document was answered several times."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replay_adapters.lmms_eval.bench import MODEL
from replay_adapters.lmms_eval.questions import Questions
from replay_adapters.runs.lmms_eval import answers_of
from replay_adapters.runs.reader import reading_run
from replay_core import UsageError
from replay_core.errors import shown
from replay_core.jsonl import finished_lines
from replay_core.studies.report import Row
from replay_core.studies.stats.passk import Samples


def read_samples(
    path: Path,
    *,
    task: str | None = None,
    metric: str | None = None,
    include_path: str | None = None,
) -> Samples:
    """Return item → score of each logged sample, of a run of either harness or a plain file.

    A plain file is JSON lines of ``{"document", "repeat", "correct"}``; VLMEvalKit's adapter writes
    ``{"index", "scores": […]}``; of lmms-eval's samples every response is scored anew by the
    task's own scorer, since the harness scores only the first.

    Raises:
        UsageError: there is no such file, it is cut, or it holds neither form.
    """
    with reading_run(path):
        return _read_samples(path, task, metric, include_path)


def _read_samples(
    path: Path, task: str | None, metric: str | None, include_path: str | None
) -> Samples:
    files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"))
    if task is not None and not path.is_file():
        files = [file for file in files if file.stem == task or file.stem.endswith(f"_{task}")]
    files = [file for file in files if not file.name.endswith(".part")]
    if not files:
        raise UsageError(f"{shown(path)} holds no JSON lines with samples")
    file = files[-1]
    lines = finished_lines(file)
    if all("correct" in line and "document" in line for line in lines):
        return _plain_samples(lines, file)
    if all("scores" in line and "index" in line for line in lines):
        return {line["index"]: [_verdict(one, file) for one in line["scores"]] for line in lines}
    if all("resps" in line and "doc_id" in line for line in lines):
        name = task or file.stem.split("_samples_", 1)[-1]
        return _rescored(lines, Questions(name, MODEL, include_path=include_path), metric)
    raise UsageError(
        f"{file} has lines of another form (allowed: document and correct; index and scores; "
        "lmms-eval's samples)"
    )


def _verdict(score: Any, file: Path) -> float:
    """Return a sample's score, a finite number, or true or false."""
    if not isinstance(score, bool | int | float) or not math.isfinite(score):
        raise UsageError(f"{file} has a score of {shown(score)} (allowed: finite numbers)")
    return float(score)


def _plain_samples(lines: Sequence[Row], file: Path) -> Samples:
    found: dict[Any, list[float]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line.get("repeat", 0)):
        found[line["document"]].append(_verdict(line["correct"], file))
    return dict(found)


def _rescored(lines: Sequence[Row], questions: Questions, metric: str | None) -> Samples:
    questions.documents(None)
    return {
        line["doc_id"]: [questions.score(line["doc_id"], text, metric) for text in answers_of(line)]
        for line in lines
    }
