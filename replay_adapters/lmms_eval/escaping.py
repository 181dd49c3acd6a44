"""Errors of the model, past a class of lmms-eval that catches them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
