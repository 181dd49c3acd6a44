"""How groups of requests are handed to the harness's class: one by one, or several at once.

Upstream's classes answer a batch, and only then read the next one. Where an engine of its own
decodes, each batch is asked in a thread, of which one works at a time: while the engine writes the
answers of one batch, the next is read and optimised.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from replay_adapters.session.overlap import overlapped
from replay_adapters.session.records import RecordBook
from replay_adapters.session.session import Session, opened
from replay_core.decoding.vllm import VllmDecoder

Ask = Callable[[list[Any]], list[Any]]


def answers_of(
    session: Session,
    decoder: VllmDecoder | None,
    ask: Ask,
    asked: Sequence[Any],
    groups: Sequence[Sequence[int]],
) -> list[Any]:
    """Return the answer to each of the requests ``asked``, which ``ask`` answers by ``groups``."""
    wanted = [[asked[index] for index in group] for group in groups]
    books = [RecordBook() for _ in wanted]
    jobs = [
        partial(_in_its_own_book, session, book, ask, group)
        for book, group in zip(books, wanted, strict=True)
    ]
    given = overlapped(decoder, jobs, each=max(map(len, wanted), default=1))
    for book in books:  # in the order of the repeats, whichever was answered first
        session.records.take_over(book)
    answers: list[Any] = [None] * len(asked)
    for group, texts in zip(groups, given, strict=True):
        for index, text in zip(group, texts, strict=True):
            answers[index] = text
    return answers


def _in_its_own_book(
    session: Session, book: RecordBook, ask: Ask, group: Sequence[Any]
) -> list[Any]:
    with opened(replace(session, records=book)):
        return ask(list(group))
