"""Written answers put through the harness's own scorers, and a person's verdict beside them."""

import contextlib
import inspect
import io
import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

from replay_adapters.settings.benchmarks import benchmark_of


def right_by(task: Any, name: str, document: dict[str, Any], text: str) -> bool | None:
    """Return whether a scorer takes a text for right; None where that is left to chance.

    A scorer tells by what it adds up to over this document alone.
    """
    verdicts = {_right(task, name, document, text, chance) for chance in (0, 1, -1)}
    return verdicts.pop() if len(verdicts) == 1 else None


def _right(task: Any, name: str, document: dict[str, Any], text: str, chance: int) -> bool:
    def draw(options: list[str]) -> str:
        return options[chance % len(options)]

    with mock.patch.object(random, "choice", draw), _quiet():
        return adds_up(task, name, task.process_results(dict(document), [text]))


def adds_up(task: Any, name: str, scores: dict[str, Any]) -> bool:
    """Return whether what a scorer told of one document adds up to more than nothing."""
    metric = metric_of(task, name, scores)
    value = scores[metric]
    with _quiet():
        add_up = task.aggregation()[metric]
        if not isinstance(value, int | float):
            more = [None] if len(inspect.signature(add_up).parameters) > 1 else []
            value = add_up([value], *more)
    return bool(value)


def metric_of(task: Any, name: str, scores: dict[str, Any]) -> str:
    """Return the metric that the paper's number is of, else the first that the scorer gave."""
    known = benchmark_of(name)
    own = known.tasks[name].metrics if known else ()
    return next(metric for metric in (*own, *task.aggregation()) if metric in scores)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield
