"""Activation Replay (Xing et al. 2025, arXiv 2511.19972) as a drop-in for ``model.generate``.

A name is imported when it is first used: the settings and errors alone need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay_core.config import ReplayConfig
    from replay_core.errors import UsageError
    from replay_core.pair import Pair, load_pair, make_pair
    from replay_core.record import ReplayRecord
    from replay_core.replay import Outcome, SampleReplay
    from replay_core.result import ReplayResult
    from replay_core.steered import Steered
    from replay_core.targets import ReplayTargets

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

_HOMES = {
    "config": ("ReplayConfig",),
    "errors": ("UsageError",),
    "pair": ("Pair", "load_pair", "make_pair"),
    "record": ("ReplayRecord",),
    "replay": ("Outcome", "SampleReplay"),
    "result": ("ReplayResult",),
    "steered": ("Steered",),
    "targets": ("ReplayTargets",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
