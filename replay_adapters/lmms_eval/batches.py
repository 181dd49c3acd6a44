"""Which requests a harness's class is given at once, and whose answer each row of a batch is."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from replay_adapters.session.records import Key


class Asked(NamedTuple):
    """Which turn of which conversation: stands for the number of the document in its requests."""

    document: Any
    repeat: int
    turn: int
    wanted: bool


class Row(NamedTuple):
    """A row of a batch: which answer, from 0 on, to which document of which task.

    ``wanted``: somebody asked for it; the harness clones requests to give all processes equally
    many, and nobody reads the clones' answers. ``turn``: which text of a conversation, from 0 on.
    """

    task: str
    document: Any
    repeat: int
    wanted: bool
    turn: int | None = None

    @property
    def key(self) -> Key:
        """The document."""
        return self.task, self.document


def key_of(request: Any) -> Key:
    """Return which document a request asks about."""
    return request.task_name, request.doc_id


def in_groups(
    requests: Sequence[Any], batch_size: int, *, chat: bool, apart: bool = False
) -> list[list[int]]:
    """Return which requests, by index, to hand to the harness's class at once, in order.

    All of them where none is repeated: the class then makes its own batches. Else ``batch_size``
    documents with equal generation settings, once per repeat and one repeat right after the other:
    the class makes the same batch each time, whose x is remembered.

    ``apart``: each group is one batch, also where nothing is repeated, so that several can be
    answered at once.

    A simple class is given one task after the other: it looks up all documents of a batch, and
    their pictures and clips, in the task of the first, so that questions of another task would be
    asked about the first one's.
    """
    repeats: defaultdict[Key, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        repeats[key_of(request)].append(index)
    if not apart and all(len(indices) == 1 for indices in repeats.values()):
        tasks: defaultdict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            tasks["" if chat else request.task_name].append(index)
        return list(tasks.values())
    alike: defaultdict[str, list[list[int]]] = defaultdict(list)
    for indices in repeats.values():
        first = requests[indices[0]]
        settings = sorted(first.arguments[2 if chat else 1].items(), key=str)
        alike[repr(("" if chat else first.task_name, settings))].append(indices)
    groups = []
    for documents in alike.values():
        for start in range(0, len(documents), batch_size):
            batch = documents[start : start + batch_size]
            for repeat in range(max(map(len, batch))):
                groups.append([indices[repeat] for indices in batch if repeat < len(indices)])
    return groups


class Rows:
    """Finds out whose answers the rows of a batch are, from what the class looks up.

    ``looked_up`` is where :class:`WatchedTasks` notes documents. ``requests`` are all that the
    class is going to answer; None where it asks for itself, round after round.
    """

    def __init__(self, looked_up: list[Key], requests: Sequence[Any] | None) -> None:
        self._looked_up = looked_up
        self._answered: Counter[Key] = Counter()
        self._wanted: Counter[Key] | None = None
        if requests is not None:
            self._wanted = Counter(key_of(one) for one in requests if not evens_out_ranks(one))

    def take(self, size: int) -> list[Row]:
        """Return the rows of the batch of ``size`` prompts that is answered now.

        A class may look up the next batch's documents meanwhile (simple qwen3_vl does, in a
        thread); a multi-round task's last round looks its document up for nothing.
        """
        if self._wanted is None:
            keys = self._looked_up[-size:]
            self._looked_up.clear()
        else:
            keys = self._looked_up[:size]
            del self._looked_up[:size]
        if len(keys) != size:
            raise RuntimeError(f"{size} prompts came with {len(keys)} documents: {keys}")
        return [self._next(key) for key in keys]

    def _next(self, key: Key) -> Row:
        task, asked = key
        if isinstance(asked, Asked):
            return Row(task, asked.document, asked.repeat, asked.wanted, asked.turn)
        repeat = self._answered[key]
        self._answered[key] += 1
        return Row(*key, repeat, self._wanted is None or repeat < self._wanted[key])


def evens_out_ranks(request: Any) -> bool:
    """Return whether the harness added a request only to give all processes equally many."""
    return bool(request.metadata.get("__padding_only__"))


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
        return self._documents[document.document if isinstance(document, Asked) else document]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)
