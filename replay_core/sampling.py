"""Draw sampled tokens from one generator per row, so that a row's answer is its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from replay_core.errors import UsageError
from replay_core.seeds import stable_seed


def seeds_of_copies(seeds: Sequence[int], copies: int) -> list[int]:
    """Return one seed per answer, where each prompt is answered ``copies`` times."""
    if copies == 1:
        return list(seeds)
    return [stable_seed(seed, copy) for seed in seeds for copy in range(copies)]


class SeededRows(TorchFunctionMode):
    """Inside this ``with``, ``torch.multinomial`` draws each row with that row's own generator.

    ``generate`` draws the tokens of a whole batch from one global stream, so that an answer depends
    on what stands beside it, and on how many tokens were drawn before. ``seeds`` are one per
    prompt; where ``generate`` repeats each prompt, the copies get seeds of their own that follow
    from them. Nothing is drawn from the global stream.

    Raises:
        UsageError: the rows that are drawn are not a multiple of the seeds.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self._seeds = list(seeds)
        self._generators: list[torch.Generator] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Stand in for every torch function; only one is another."""
        if func is torch.multinomial:
            return self._multinomial(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _multinomial(self, probabilities: Tensor, num_samples: int, **options: Any) -> Tensor:
        rows = len(probabilities)
        if len(self._generators) != rows:
            copies = rows // max(len(self._seeds), 1)
            if copies * len(self._seeds) != rows:
                raise UsageError(
                    f"{len(self._seeds)} seeds came for {rows} rows of answers (allowed: one for "
                    "each prompt)"
                )
            self._generators = [
                torch.Generator(probabilities.device).manual_seed(seed)
                for seed in seeds_of_copies(self._seeds, copies)
            ]
        drawn = [
            torch.multinomial(row, num_samples, **options, generator=generator)
            for row, generator in zip(probabilities, self._generators, strict=True)
        ]
        return torch.stack(drawn)
