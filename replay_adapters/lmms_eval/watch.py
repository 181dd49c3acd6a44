"""The stand-in through which the mixin sees which documents a harness class asks for."""

from collections.abc import Iterator, Mapping
from typing import Any

Key = tuple[str, Any]  # (task, document)


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
