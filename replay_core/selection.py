"""Which activations are replayed: the dynamic low-entropy mask and its control arms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from replay_core.config import Select


def low_entropy(entropies: Tensor, owner: Tensor, samples: int, threshold: float) -> Tensor:
    """Return where the base is low-entropy at one layer: bool (candidates,).

    ``M = e <= γ * max e``, the maximum over one sample's candidates (Xing et al. 2025, their τ;
    their text writes ``<``). ``entropies`` (candidates,) in nats; ``owner`` (candidates,) says
    which sample each belongs to; ``threshold`` is γ in (0, 1].
    """
    lowest = torch.finfo(entropies.dtype).min
    peak = entropies.new_full((samples,), lowest).scatter_reduce(0, owner, entropies, "amax")
    return entropies <= threshold * peak[owner]


def select(
    entropies: Tensor,
    owner: Tensor,
    samples: int,
    *,
    how: Select,
    threshold: float,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return which candidates of one layer are replayed: bool (candidates,).

    ``low`` is the mask of :func:`low_entropy`, ``high`` its complement (the paper's negative
    control), ``all`` every candidate, ``random`` as many per sample as ``low`` has, drawn with the
    sample's own generator (on the CPU).
    """
    if how == "all":
        return torch.ones_like(entropies, dtype=torch.bool)
    low = low_entropy(entropies, owner, samples, threshold)
    if how == "low":
        return low
    if how == "high":
        return ~low
    chosen = torch.zeros_like(low)
    for sample, generator in enumerate(generators):
        mine = torch.nonzero(owner == sample).squeeze(-1)
        order = torch.randperm(len(mine), generator=generator).to(mine.device)
        chosen[mine[order[: int(low[mine].sum())]]] = True
    return chosen
