"""The newest run of every task in a folder, whichever harness made it."""

from collections.abc import Iterable
from pathlib import Path

from replay_adapters.runs.groups import group_runs
from replay_adapters.runs.lmms_eval import lmms_eval_runs
from replay_adapters.runs.run import RunLog
from replay_adapters.runs.vlmevalkit import vlmevalkit_runs
from replay_core import UsageError


def read_runs(folder: Path, tasks: Iterable[str] = (), metric: str | None = None) -> list[RunLog]:
    """Return the newest run of every task below ``folder``, or of ``tasks``.

    A group of lmms-eval's tasks is one run where it is named, over the documents of all its tasks.

    Raises:
        UsageError: there is none, or one lacks a finite score for a document.
    """
    wanted = list(tasks)
    if not folder.exists():
        raise UsageError(f"{folder} does not exist; give the folder of a run")
    found = {**vlmevalkit_runs(folder), **lmms_eval_runs(folder)}
    if not found:
        raise UsageError(
            f"{folder} holds neither samples of lmms-eval (run it with --output_path and "
            "--log_samples) nor results of VLMEvalKit per item (*_result.* or *_score.*)"
        )
    if not found.keys() >= set(wanted):
        found = {**group_runs(folder), **found}
    missing = [task for task in wanted if task not in found]
    if missing:
        raise UsageError(
            f"{folder} holds no run of {', '.join(missing)} (found: {', '.join(sorted(found))})"
        )
    return [found[task](metric) for task in wanted or sorted(found)]
