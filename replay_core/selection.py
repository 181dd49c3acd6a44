"""Which activations are replayed: the dynamic low-entropy mask and its control arms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from replay_core.config import ReplayConfig, Select


def peaks(entropies: Tensor, group: Tensor) -> Tensor:
    """Return, for each candidate, the largest entropy of its group: (candidates,).

    ``entropies`` (candidates,) in nats; ``group`` (candidates,) numbers the samples, or the images,
    that share a maximum.
    """
    groups = int(group.max()) + 1 if len(group) else 0
    lowest = torch.finfo(entropies.dtype).min
    peak = entropies.new_full((groups,), lowest).scatter_reduce(0, group, entropies, "amax")
    return peak[group]


def low_entropy(entropies: Tensor, group: Tensor, threshold: float) -> Tensor:
    """Return where the base is low-entropy at one layer: bool (candidates,).

    ``M = e <= γ * max e``, the maximum over one sample's candidates or one image's (Xing et al.
    2025, their τ; their text writes ``<``). ``entropies`` (candidates,) in nats; ``group`` as in
    :func:`peaks`; ``threshold`` is γ in (0, 1].
    """
    return entropies <= threshold * peaks(entropies, group)


def low_mask(
    entropies: Tensor, group: Tensor, layer: int, config: ReplayConfig, rival: Tensor | None = None
) -> Tensor:
    """Return the low-entropy mask of ``layer`` that ``config`` asks for: bool (candidates,).

    Dynamic, or below the layer's fixed threshold (strictly, in the reference reading). ``rival``
    are the policy's entropies (candidates,): where given, the base's must lie below them as well.
    """
    fixed = config.fixed_thresholds
    if fixed is None:
        low = low_entropy(entropies, group, config.threshold)
    elif config.boundary == "reference":
        low = entropies < fixed[layer]
    else:
        low = entropies <= fixed[layer]
    return low if rival is None else low & (entropies < rival)


def select(
    low: Tensor,
    entropies: Tensor,
    owner: Tensor,
    *,
    how: Select,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return which candidates of one layer are replayed: bool (candidates,).

    ``low`` (candidates,) is the low-entropy mask; ``how`` takes it, its complement (the paper's
    negative control), every candidate, or as many per sample as ``low`` has, drawn with the
    sample's own generator (on the CPU). The ``matched`` arms have, per sample, as many as the
    smaller of ``low`` and its complement: the lowest, the highest, or random ones.
    """
    if how == "all":
        return torch.ones_like(low)
    if how == "low":
        return low
    if how == "high":
        return ~low
    chosen = torch.zeros_like(low)
    for sample, generator in enumerate(generators):
        mine = torch.nonzero(owner == sample).squeeze(-1)
        count = int(low[mine].sum())
        if how != "random":
            count = min(count, len(mine) - count)
        chosen[mine[_order(entropies[mine], how, generator)[:count]]] = True
    return chosen


def _order(entropies: Tensor, how: Select, generator: torch.Generator) -> Tensor:
    """Return the indices of one sample's candidates, those to be taken first in front."""
    if how in ("random", "matched_random"):
        return torch.randperm(len(entropies), generator=generator).to(entropies.device)
    return torch.argsort(entropies, descending=how == "matched_high", stable=True)
