"""Whether the files of a finished run are whole.

lmms-eval catches whatever goes wrong when it writes them, as on a full disk, and ends with 0.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_core import UsageError
from replay_core.jsonl import finished_lines


def incomplete(
    output_path: str, results: Mapping[str, Any], samples: Mapping[str, Sequence[Any]] | None
) -> list[str]:
    """Return a sentence for each file that is missing or cut; empty where all are whole.

    ``results`` and ``samples`` (None without ``--log_samples``) are what lmms-eval returns from an
    evaluation, after it has written them below ``output_path``.
    """
    folder = Path(output_path, results.get("model_name_sanitized") or "")
    stamp = str(results["date"]).replace(":", "-")
    problems = [_results_problem(folder / f"{stamp}_results.json", results)]
    problems += [
        _samples_problem(folder / f"{stamp}_samples_{task}.jsonl", len(rows))
        for task, rows in (samples or {}).items()
        if rows
    ]
    return [problem for problem in problems if problem]


def _results_problem(path: Path, results: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path} was not written"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"{path} is cut off; is the disk full?"
    missing = results["results"].keys() - written["results"].keys()
    return f"{path} lacks {', '.join(sorted(missing))}" if missing else None


def _samples_problem(path: Path, answered: int) -> str | None:
    if not path.is_file():
        return f"{path} was not written"
    try:
        found = len(finished_lines(path))
    except UsageError:
        return f"{path} is cut off; is the disk full?"
    if found != answered:
        return f"{path} holds {found} samples of {answered}; is the disk full?"
    return None
