"""What one evaluation has in mind: its settings, its model, and what is being answered.

The functions of a harness that the patches stand in front of are handed none of it. A session lasts
as long as the ``with`` block that opened it; threads see it that :class:`ContextThreads` starts.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from transformers import PretrainedConfig

from replay_adapters.session.records import Key, RecordBook
from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import Settings, resolve

_open: ContextVar["Session | None"] = ContextVar("activation_replay_session", default=None)

# What lmms-eval adds to --model_args from its own flags.
_FLAGS = ("batch_size", "max_batch_size", "device")


class Resolved:
    """What options came to: pair files and checkpoints' configs are read once for all who ask."""

    def __init__(self) -> None:
        self._settings: dict[str, Settings] = {}
        self._checkpoints: dict[tuple[str, ...], PretrainedConfig] = {}

    def settings(self, arguments: Mapping[str, Any]) -> Settings:
        """Return what :func:`resolve` returns.

        Raises:
            UsageError: as there.
        """
        flags = {n: arguments[n] for n in _FLAGS if arguments.get(n) is not None}
        options = {name: value for name, value in arguments.items() if name not in _FLAGS}
        key = repr(sorted(options.items()))
        if key not in self._settings:
            self._settings[key] = resolve(options)
        settings = self._settings[key]
        return replace(settings, rest={**settings.rest, **flags}) if flags else settings

    def checkpoint(self, settings: Settings) -> PretrainedConfig:
        """Return what :func:`check_checkpoints` returns.

        Raises:
            UsageError: as there.
        """
        devices = repr([settings.rest.get(name) for name in ("device", "device_map")])
        key = (settings.pair.policy, settings.pair.base, settings.config.fingerprint(), devices)
        if key not in self._checkpoints:
            self._checkpoints[key] = check_checkpoints(settings)
        return self._checkpoints[key]


@dataclass
class Session:
    """The state of one evaluation."""

    model: Any = None
    """The replaying model that answers, once it is built."""
    resolved: Resolved = field(default_factory=Resolved)
    """What options came to; sessions inside of this one ask the same."""
    command_line: Mapping[str, Any] = field(default_factory=dict)
    """The command line's generation settings, which win over a pair's."""
    scorers: Mapping[str, str] = field(default_factory=dict)
    """Task → the function that scores it, in lmms-eval."""
    records: RecordBook = field(default_factory=RecordBook)
    """The record of every answer."""
    looked_up: list[Key] = field(default_factory=list)
    """Documents that the harness's class has looked up and not had answered yet, in that order."""
    faults: dict[Key, str] = field(default_factory=dict)
    """Document → why it has no answer, where a picture or clip of it is unreadable."""
    journal: Any = None
    """Where the answers to a set of VLMEvalKit are kept while it is answered."""
    sample: Any = None
    """The index of the row whose prompt was built last, in VLMEvalKit."""


class Replaying:
    """Marks a harness's model class that replays: evaluations of its instances have a session."""


def current() -> Session | None:
    """Return the session that is open here, None outside of any."""
    return _open.get()


@contextmanager
def opened(session: Session | None = None) -> Iterator[Session]:
    """Open a session, a new one where None is given; the outer one, if any, returns behind it."""
    outer = _open.get()
    if session is None:
        session = Session()
    if outer is not None:
        session.resolved = outer.resolved
    token = _open.set(session)
    try:
        yield session
    finally:
        _open.reset(token)


@contextmanager
def joined(model: Replaying | None = None) -> Iterator[Session]:
    """Go on in the open session; open one where there is none, or that one is another model's."""
    session = _open.get()
    if session is not None and (model is None or session.model is model):
        yield session
    else:
        with opened(Session(model)) as session:
            yield session


def while_evaluating(instead: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a wrap of a harness's function: ``instead``, while one of our models is evaluated.

    It is given the session, the function itself and then what that one is called with.
    """

    def wrap(original: Any) -> Any:
        @wraps(original)
        def called(*args: Any, **kwargs: Any) -> Any:
            session = current()
            if session is None or session.model is None:
                return original(*args, **kwargs)
            return instead(session, original, *args, **kwargs)

        return called

    return wrap


class ContextThreads(ThreadPoolExecutor):
    """A pool whose threads work in the context of whoever gave them the work."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand over a call, with the caller's context."""
        return super().submit(copy_context().run, fn, *args, **kwargs)
