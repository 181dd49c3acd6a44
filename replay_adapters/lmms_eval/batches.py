"""Small stand-ins through which the mixin sees what a harness class does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Key = tuple[str, Any]  # (task, document)


class _Escaping(BaseException):
    """Carries an error past an ``except Exception``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def escaping(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``generate`` whose errors leave the harness's class, up to :func:`brought_back`.

    Upstream's internvl_hf and llava_hf catch whatever ``generate`` raises, answer "" and let it
    score 0. To be dropped when they let it through.
    """

    def escapes(**arguments: Any) -> Any:
        try:
            return generate(**arguments)
        except Exception as error:
            raise _Escaping(error) from error

    return escapes


@contextmanager
def brought_back() -> Iterator[None]:
    """Raise what escaped from inside the block as what it was."""
    try:
        yield
    except _Escaping as escaped:
        raise escaped.error from None


class WatchedTasks(Mapping[str, Any]):
    """A harness's ``task_dict`` that notes every document it is asked for.

    ``generate`` is told neither task nor document, but every class looks its batch's documents up
    as ``task_dict[task][split][document]``, row by row, just before it calls ``generate``.
    """

    def __init__(self, tasks: Mapping[str, Any], seen: list[Key]) -> None:
        self._tasks, self._seen = tasks, seen

    def __getitem__(self, task: str) -> Any:
        return _WatchedSplits(self._tasks[task], task, self._seen)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


class _WatchedSplits:
    def __init__(self, splits: Any, task: str, seen: list[Key]) -> None:
        self._splits, self._task, self._seen = splits, task, seen

    def __getitem__(self, split: str) -> Any:
        return _WatchedDocuments(self._splits[split], self._task, self._seen)


class _WatchedDocuments:
    def __init__(self, documents: Any, task: str, seen: list[Key]) -> None:
        self._documents, self._task, self._seen = documents, task, seen

    def __getitem__(self, document: Any) -> Any:
        self._seen.append((self._task, document))
        return self._documents[document]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)
