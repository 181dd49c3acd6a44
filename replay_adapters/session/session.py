"""What one evaluation has in mind: its settings, its model, and what is being answered.

The functions of a harness that the patches stand in front of are handed none of it. A session lasts
as long as the ``with`` block that opened it; threads see it that :class:`ContextThreads` starts.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

_open: ContextVar["Session | None"] = ContextVar("activation_replay_session", default=None)


@dataclass
class Session:
    """The state of one evaluation."""

    model: Any = None
    """The replaying model that answers, once it is built."""

    journal: Any = None
    """Where the answers of the set that is being answered are kept."""
    sample: Any = None
    """The index of the row whose prompt was built last, in VLMEvalKit."""


def current() -> Session | None:
    """Return the session that is open here, None outside of any."""
    return _open.get()


@contextmanager
def opened(session: Session | None = None) -> Iterator[Session]:
    """Open a session, a new one where None is given; the outer one, if any, returns behind it."""
    session = Session() if session is None else session
    token = _open.set(session)
    try:
        yield session
    finally:
        _open.reset(token)


class ContextThreads(ThreadPoolExecutor):
    """A pool whose threads work in the context of whoever gave them the work."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand over a call, with the caller's context."""
        return super().submit(copy_context().run, fn, *args, **kwargs)
