"""Whether one document was right, where a task says so only when it adds all documents up.

Some tasks give a document a table with the parsed answer and the right one, and leave it to their
aggregation to compare them: MMMU, MMMU-Pro, VideoMMMU, MLVU and MathVision. The harness's own
aggregation of one document alone is that document's verdict.
"""

import contextlib
import importlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replay_core import UsageError

Table = Mapping[str, Any]


@dataclass(frozen=True)
class _Aggregation:
    """What one of the harness's aggregations makes of documents."""

    package: str
    """The task's package, whose ``utils`` has the aggregation."""
    right: float
    """What it makes of one right document alone."""
    left_out: tuple[str, Any] | None = None
    """The field and value of documents that it leaves out of the mean."""


# By the name of the function; nothing here asks a judge or writes a file.
_AGGREGATIONS = {
    "mmmu_aggregate_results": _Aggregation("mmmu", 1.0),
    "mmmu_pro_aggregate_results": _Aggregation("mmmu_pro", 1.0),
    # An open question that was answered with nothing is taken for an error of an API.
    "videommmu_aggregate_results": _Aggregation("videommmu", 1.0, ("parsed_pred", "API Error")),
    "mathvision_aggregate_results_eval": _Aggregation("mathvision", 100.0),
    # Means over 7 and 9 types of task, of which one document has one.
    "mlvu_aggregate_results_dev": _Aggregation("mlvu", 100 / 7),
    "mlvu_aggregate_results_test": _Aggregation("mlvu", 100 / 9),
}


@dataclass(frozen=True)
class Verdicts:
    """What the harness's own aggregation says of each document."""

    scores: list[float]
    """From 0 to 1, in the documents' order."""
    left_out: int
    """How many documents the harness leaves out of its number; their score is 0."""


def has_verdicts(aggregation: str) -> bool:
    """Return whether documents can be told apart by an aggregation of this name."""
    return aggregation in _AGGREGATIONS


def verdicts(
    aggregation: str, tables: Sequence[Table], reported: float | None, where: str
) -> Verdicts:
    """Return the verdict on each document's table by the harness's function ``aggregation``.

    ``reported`` is the run's own number: all documents together must come to it here too, or
    another release of the harness made the run. ``where`` names the run in errors.

    Raises:
        UsageError: the harness is not installed, or comes to another number than ``reported``.
    """
    known = _AGGREGATIONS[aggregation]
    aggregate = _load(known.package, aggregation)
    with _quiet():
        whole = aggregate(list(tables))
        alone = [aggregate([table]) / known.right for table in tables]
    agrees = reported is None or math.isclose(whole, reported, abs_tol=1e-6)
    if not agrees or not all(0 <= score <= 1 for score in alone):
        raise UsageError(
            f"{where}: the installed lmms-eval's {aggregation} comes to {whole} for its documents, "
            f"but the run reports {reported}; read it with the release that made it"
        )
    field, value = known.left_out or ("", None)
    left_out = sum(field in table and table[field] == value for table in tables)
    return Verdicts(alone, left_out)


def _load(package: str, name: str) -> Callable[[list[Table]], float]:
    """Return an aggregation; VideoMMMU's module wants HF_HOME to be set, whatever it is."""
    try:
        from huggingface_hub.constants import HF_HOME

        before = os.environ.get("HF_HOME")
        os.environ.setdefault("HF_HOME", HF_HOME)
        try:
            module = importlib.import_module(f"lmms_eval.tasks.{package}.utils")
        finally:
            if before is None:
                del os.environ["HF_HOME"]
    except ImportError as error:
        raise UsageError(
            f"the scores of this run are told by lmms-eval's {package} scorer, which cannot be "
            f"imported ({error}); install it with: pip install 'activation-replay[lmms-eval]'"
        ) from error
    found: Callable[[list[Table]], float] = getattr(module, name)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what aggregations print and log of each document, a page at a time, off the terminal."""
    from loguru import logger

    logger.disable("lmms_eval")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.enable("lmms_eval")
