"""Seeds that depend on what is asked, never on when or in which batch."""

import hashlib
from collections.abc import Sequence

import torch

from replay_core.errors import UsageError


def stable_seed(*parts: object) -> int:
    """Return a seed in [0, 2**31) for the given parts, the same in every process and version."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def check_seeds(seeds: Sequence[int], samples: int) -> None:
    """Raise UsageError unless there is one seed for each sample of a batch."""
    if len(seeds) != samples:
        raise UsageError(
            f"{len(seeds)} seeds came for a batch of {samples} samples (allowed: one for each, or "
            "none, and they follow from the prompts)"
        )


def generators(seeds: Sequence[int], samples: int) -> list[torch.Generator]:
    """Return each sample's own random generator, on the CPU.

    Raises:
        UsageError: there is not one seed for each sample.
    """
    check_seeds(seeds, samples)
    return [torch.Generator().manual_seed(seed) for seed in seeds]
