"""Activation Replay (Xing et al. 2025, arXiv 2511.19972) as a drop-in for ``model.generate``.

The names below are imported when they are first used, so that commands which need no model, such as
``--help`` and refusals, do not wait for torch and transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay_core.config import ReplayConfig
    from replay_core.errors import UsageError
    from replay_core.outcome import Outcome, SampleReplay
    from replay_core.pair.loading import load_pair
    from replay_core.pair.pair import Pair, make_pair
    from replay_core.record import ReplayRecord
    from replay_core.result import ReplayResult
    from replay_core.steered import Steered
    from replay_core.targets import ReplayTargets

_HOME = {
    "Outcome": "outcome",
    "Pair": "pair.pair",
    "ReplayConfig": "config",
    "ReplayRecord": "record",
    "ReplayResult": "result",
    "ReplayTargets": "targets",
    "SampleReplay": "outcome",
    "Steered": "steered",
    "UsageError": "errors",
    "load_pair": "pair.loading",
    "make_pair": "pair.pair",
}

__all__ = [
    "Outcome",
    "Pair",
    "ReplayConfig",
    "ReplayRecord",
    "ReplayResult",
    "ReplayTargets",
    "SampleReplay",
    "Steered",
    "UsageError",
    "load_pair",
    "make_pair",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
