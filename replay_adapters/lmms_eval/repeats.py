"""In which order repeated requests are answered, so that x is optimised once per item."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from replay_adapters.lmms_eval.batches import Key


def key_of(request: Any) -> Key:
    """Return which document a request asks about."""
    return request.task_name, request.doc_id


def in_groups(requests: Sequence[Any], batch_size: int, *, chat: bool) -> list[list[int]]:
    """Return which requests, by index, to hand to the harness's class at once, in order.

    All of them where none is repeated: the class then makes its own batches. Else ``batch_size``
    documents with equal generation settings, once per repeat and one repeat right after the other:
    the class makes the same batch each time, whose x is remembered.
    """
    repeats: defaultdict[Key, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        repeats[key_of(request)].append(index)
    if all(len(indices) == 1 for indices in repeats.values()):
        return [list(range(len(requests)))] if requests else []
    alike: defaultdict[str, list[list[int]]] = defaultdict(list)
    for indices in repeats.values():
        settings = requests[indices[0]].arguments[2 if chat else 1]
        alike[repr(sorted(settings.items(), key=str))].append(indices)
    groups = []
    for documents in alike.values():
        for start in range(0, len(documents), batch_size):
            batch = documents[start : start + batch_size]
            for repeat in range(max(map(len, batch))):
                groups.append([indices[repeat] for indices in batch if repeat < len(indices)])
    return groups
