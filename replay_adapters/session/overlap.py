"""Work on several batches in turn: while an engine decodes one of them, another is optimised."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from replay_adapters.session.session import ContextThreads
from replay_core.decoding.vllm import VllmDecoder, at_once

_Result = TypeVar("_Result")


def overlapped(
    decoder: VllmDecoder | None, jobs: Sequence[Callable[[], _Result]], *, each: int = 1
) -> list[_Result]:
    """Return what ``jobs`` return, in their order.

    They begin in their order and only one of them works at a time; where it waits for the
    ``decoder``, the next one works. ``each`` is how many answers a job asks for at once, so that as
    many jobs are begun as keep the decoder full, and one more. Without a decoder, and inside of
    such a job, they work one after the other.

    Raises:
        BaseException: what the first job raises that fails; no other one is begun then.
    """
    if decoder is None or decoder.pause is not at_once:
        return [job() for job in jobs]
    width = min(len(jobs), -(-decoder.options.max_num_seqs // each) + 1)
    results: list[Any] = [None] * len(jobs)
    failures: list[BaseException] = []
    todo = iter(enumerate(jobs))
    baton = threading.Lock()

    def wait_without(waits: Callable[[], None]) -> None:
        baton.release()
        try:
            waits()
        finally:
            baton.acquire()

    def work() -> None:
        with baton:
            while not failures and (one := next(todo, None)) is not None:
                number, job = one
                try:
                    results[number] = job()
                except BaseException as error:
                    failures.append(error)

    with _pausing(decoder, wait_without), ContextThreads(max(width, 1)) as threads:
        try:
            for working in [threads.submit(work) for _ in range(width)]:
                working.result()
        except BaseException as error:  # of this thread: it was interrupted
            failures.append(error)
    if failures:
        raise failures[0]
    return results


@contextmanager
def _pausing(decoder: VllmDecoder, wait: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    before, decoder.pause = decoder.pause, wait
    try:
        yield
    finally:
        decoder.pause = before
