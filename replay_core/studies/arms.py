"""Arms: named settings that answer the same items."""

from dataclasses import dataclass
from typing import Any, Literal

from replay_core.config import ReplayConfig

Treatment = Literal["plain", "self_pair", "shuffled", "votes"]
BASELINE = "none"


@dataclass(frozen=True)
class Arm:
    """One way to answer: a name, the settings, and what else is done to the pair or its targets.

    ``plain``: nothing else. ``self_pair``: the base is the policy itself. ``shuffled``: the targets
    come from another picture. ``votes``: the most frequent final answer of ``votes`` sampled ones.
    """

    name: str
    config: ReplayConfig
    treatment: Treatment = "plain"
    votes: int = 1

    def settings(self) -> dict[str, Any]:
        """Return what the arm's answers depend on."""
        return {
            "config": self.config.model_dump(mode="json"),
            "treatment": self.treatment,
            "votes": self.votes,
        }


def baseline(config: ReplayConfig) -> Arm:
    """Return the arm that others are compared with: the policy alone."""
    return Arm(BASELINE, config.changed(method="none"))
