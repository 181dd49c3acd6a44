"""Activation Replay (Xing et al. 2025, arXiv 2511.19972) as a drop-in for ``model.generate``."""

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
