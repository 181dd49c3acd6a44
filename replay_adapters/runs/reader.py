"""The newest run of every task in a folder, whichever harness made it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import StatisticsError

from replay_adapters.runs.groups import group_runs
from replay_adapters.runs.lmms_eval import lmms_eval_runs
from replay_adapters.runs.run import RunLog
from replay_adapters.runs.vlmevalkit import vlmevalkit_runs
from replay_adapters.settings.resources import is_file, is_folder
from replay_core import UsageError
from replay_core.errors import shown

# What a reader of whole files raises on damaged ones, beside what it tells itself.
_DAMAGES = (
    *(KeyError, TypeError, AttributeError, ValueError, IndexError, OSError, RecursionError),
    *(ArithmeticError, StatisticsError),
)


@contextmanager
def reading_run(where: Path | str) -> Iterator[None]:
    """Say that the files of a run are damaged, where that is what the block raises.

    Raises:
        UsageError: with the exception's own words.
    """
    try:
        yield
    except UsageError:
        raise
    except _DAMAGES as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"the run in {shown(where)} cannot be read, its files are damaged or of another "
            f"release ({type(error).__name__}: {shown(why)}); run it again"
        ) from error


def read_runs(folder: Path, tasks: Iterable[str] = (), metric: str | None = None) -> list[RunLog]:
    """Return the newest run of every task below ``folder``, or of ``tasks``.

    A group of lmms-eval's tasks is one run where it is named, over the documents of all its tasks.

    Raises:
        UsageError: there is none, or one lacks a finite score for a document.
    """
    with reading_run(folder):
        return _read_runs(folder, list(tasks), metric)


def _read_runs(folder: Path, wanted: list[str], metric: str | None) -> list[RunLog]:
    if not is_folder(folder):
        what = "is a file" if is_file(folder) else "does not exist"
        raise UsageError(f"{shown(folder)} {what}; give the folder of a run")
    found = {**vlmevalkit_runs(folder), **lmms_eval_runs(folder)}
    if not found:
        raise UsageError(
            f"{shown(folder)} holds neither samples of lmms-eval (run it with --output_path and "
            "--log_samples) nor results of VLMEvalKit per item (*_result.* or *_score.*)"
        )
    if not found.keys() >= set(wanted):
        found = {**group_runs(folder), **found}
    missing = [task for task in wanted if task not in found]
    if missing:
        raise UsageError(
            f"{shown(folder)} holds no run of {shown(', '.join(missing))} (found: "
            f"{', '.join(sorted(found))})"
        )
    return [found[task](metric) for task in wanted or sorted(found)]
