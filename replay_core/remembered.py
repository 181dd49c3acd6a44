"""What the store of a pair holds of a batch: the base's reading of it, and the x found for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from replay_core.config import ReplayConfig
from replay_core.digest import content_digest
from replay_core.errors import UsageError
from replay_core.lens import arithmetic
from replay_core.model.vision import Inputs
from replay_core.outcome import SampleReplay
from replay_core.pair.pair import Pair
from replay_core.record import library_versions
from replay_core.store import Store
from replay_core.targets import BaseReading

_SAMPLES = TypeAdapter(tuple[SampleReplay, ...])
_RANDOM = ("random", "matched_random")


class Remembered:
    """One batch in a store.

    ``inputs`` are its left-padded prompts. The batch as a whole is what things are found by: what
    stands beside a prompt changes the last digits of its numbers, and what is found is to be, bit
    by bit, what would be computed. So tokens, padding and pixels are in the key, the base's weights
    and how it computes, the versions of the libraries, and of the settings those that matter: for a
    reading of the base neither γ nor any other choice of positions, for x all but seeds that draw
    nothing.

    Raises:
        UsageError: a model was loaded from nowhere, so that it could not be told from another.
    """

    def __init__(
        self,
        store: Store,
        pair: Pair,
        config: ReplayConfig,
        layers: Sequence[int],
        inputs: Inputs,
        seeds: Sequence[int],
    ) -> None:
        check_known(pair)
        self._store = store
        common = {
            "inputs": content_digest(inputs, ()),
            "base": [pair.base_revision, pair.base.manner, pair.adapted],
            "text_behind_clips": pair.text_behind_clips,
            "arithmetic": str(arithmetic(config, pair.base.dtype)),
            "layers": list(layers),
            "positions": config.positions,
            "top_k": config.top_k,
            "versions": library_versions(),
        }
        self._reading = store.key("base", common)
        self._x = store.key("x", {**common, **_settings_of_x(pair, config, seeds)})

    def reading(self) -> BaseReading | None:
        """Return what the base read, on the CPU; None where that is not known."""
        found = self._store.find(self._reading)
        return None if found is None else BaseReading.of(found.tensors)

    def keep_reading(self, reading: BaseReading) -> None:
        """Keep what the base read."""
        self._store.keep(self._reading, reading.tensors())

    def x(self) -> tuple[Tensor, tuple[SampleReplay, ...]] | None:
        """Return x (visual tokens, hidden), on the CPU, and what became of each sample."""
        found = self._store.find(self._x)
        if found is None:
            return None
        return found.tensors["x"], _SAMPLES.validate_python(json.loads(found.note))

    def keep_x(self, x: Tensor, samples: Sequence[SampleReplay]) -> None:
        """Keep x, and what became of each sample."""
        self._store.keep(self._x, {"x": x}, json.dumps([asdict(sample) for sample in samples]))


def check_known(pair: Pair) -> None:
    """Raise UsageError unless it is known which checkpoints a pair's models are."""
    for anatomy, revision in (
        (pair.policy, pair.policy_revision),
        (pair.base, pair.base_revision),
    ):
        if not revision:
            raise UsageError(
                f"{anatomy.name} was not loaded from a checkpoint, so that what a store holds of "
                "it could not be told from another's (allowed: pairs of load_pair)"
            )


def _settings_of_x(pair: Pair, config: ReplayConfig, seeds: Sequence[int]) -> Mapping[str, Any]:
    """Return what x depends on beside the base's reading."""
    drawn = config.x == "random" or config.select in _RANDOM
    return {
        "policy": [pair.policy_revision, pair.policy.manner],
        "config": config.model_dump(
            mode="json", exclude={"seed", "strict", "checkpointing", "cuda_graphs"}
        ),
        "seeds": list(seeds) if drawn else None,
    }
