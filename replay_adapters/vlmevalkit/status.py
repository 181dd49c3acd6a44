"""What came of a run: read from the files that the harness and this package leave."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replay_adapters.console import FAILED, FAULTY

if TYPE_CHECKING:
    from replay_adapters.vlmevalkit.planned import Planned
    from replay_adapters.vlmevalkit.rows import Rows


@dataclass
class Run:
    """A checked command line: the harness's own, our models by full name, and what it touches.

    ``labels`` is the name of a set in a run file → the set's own name, ``entries`` what stands
    there under it.
    """

    argv: list[str]
    checkout: Path | None
    work_dir: Path = Path("outputs")
    models: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    ours: "dict[str, Planned]" = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> bool:
        """Whether questions are asked at all; not where an earlier run's answers are scored."""
        return "--mode=eval" not in self.argv and ("--mode", "eval") not in pairwise(self.argv)


def verdict(run: Run, started: float) -> tuple[int, str]:
    """Return the exit code of a run, and what to say of it.

    0 where every row of every set was answered by every model, ``FAULTY`` where a row ended in a
    fault, ``FAILED`` where one was not answered or a set not scored.
    """
    failures, answered, faulty = [], [], 0
    for model in run.models:
        for dataset in run.datasets:
            rows = _rows(run, model, dataset, started)
            failure = _failure(run, model, dataset, started, rows)
            counted = "" if rows is None else rows.told()
            faulty += 0 if rows is None else rows.faulty
            if failure is None:
                answered.append(f"{model} on {dataset}: {counted or 'done'}")
            else:
                told = "; ".join(dict.fromkeys(part for part in (failure, counted) if part))
                failures.append(f"{model} on {dataset}: {told}")
    if failures:
        return FAILED, f"failed: {'. '.join(failures)}"
    return FAULTY if faulty else 0, ". ".join(answered)


def _failure(run: Run, model: str, dataset: str, started: float, rows: "Rows | None") -> str | None:
    """Return why a model's answers to a set count as failed; None where they do not."""
    path = run.work_dir / model / "status.json"
    fresh = path.is_file() and path.stat().st_mtime >= started - 1
    status = json.loads(path.read_text(encoding="utf-8")) if fresh else {}
    reason = _reason(status.get("datasets", {}).get(dataset, {}))
    if reason is not None:
        return reason
    if rows is None:
        return "no row was answered" if run.answers and model in run.ours else None
    if not rows.asked:
        return "the set has no rows"
    if rows.unanswered:
        return rows.told()
    if rows.asked == len(rows.unreadable):
        return "no row's input can be read"
    if rows.asked == rows.faulty:
        return "no row was answered as it was meant to be"
    return None


def _reason(status: dict[str, Any]) -> str | None:
    """Return why a dataset counts as failed; None where it does not."""
    message = status.get("error_message")
    if message is not None:
        lines = str(message).strip().splitlines()
        return lines[0] if lines else "it failed; the log has the exception"
    if status.get("status") != "done":
        return "it was not finished"
    skipped = str(status.get("skip_reason") or "")
    if skipped in ("invalid_dataset", "Incomplete infer result", "No infer result found"):
        return skipped.replace("_", " ")
    return None


def _rows(run: Run, model: str, dataset: str, started: float) -> "Rows | None":
    """Return the rows under the name that the run has for a set, else under the set's own."""
    from replay_adapters.vlmevalkit.rows import read_rows  # here: a refusal does not wait for torch

    since = started if run.answers else 0.0
    names = dict.fromkeys((dataset, run.labels.get(dataset, dataset)))
    found = (read_rows(run.work_dir / model, name, since) for name in names)
    return next((rows for rows in found if rows is not None), None)
