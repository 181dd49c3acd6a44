"""What arms do to a pair, to pictures and to answers, beside their settings."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from replay_core.errors import UsageError
from replay_core.model.vision import PIXELS, Inputs
from replay_core.pair.pair import Pair


def self_pair(pair: Pair) -> Pair:
    """Return the policy paired with itself."""
    return replace(
        pair,
        base=pair.policy,
        shared_vision=True,
        adapted=False,
        base_revision=pair.policy_revision,
    )


def joined_pictures(batches: Sequence[Inputs]) -> dict[str, Tensor]:
    """Return the pixels and grids of single prompts, joined in the given order."""
    names = [*PIXELS, "image_grid_thw", "video_grid_thw"]
    present = [name for name in names if any(name in batch for batch in batches)]
    return {name: torch.cat([b[name] for b in batches if name in b]) for name in present}


def with_pictures_of(inputs: Inputs, donor: Inputs, merge: int = 2) -> dict[str, Tensor]:
    """Return ``inputs`` with the donor batch's pictures in place of their own, row by row.

    Where an input has a grid per picture (``image_grid_thw``), a donor picture of another grid is
    resized to it by nearest neighbours on the grid of visual tokens (``merge`` x ``merge``
    patches). Else the two batches' pixels must have the same shape.

    Raises:
        UsageError: the batches hold pictures that cannot stand in for each other.
    """
    names = [name for name in PIXELS if name in inputs]
    if not names or any(name not in donor for name in names):
        raise UsageError("shuffled base needs pictures in every prompt, found a batch without")
    swapped = dict(inputs)
    for name in names:
        grid = f"{'video' if 'video' in name else 'image'}_grid_thw"
        if grid in inputs:
            swapped[name] = _resized(donor[name], donor[grid], inputs[grid], merge)
        elif donor[name].shape == inputs[name].shape:
            swapped[name] = donor[name]
        else:
            raise UsageError(
                f"shuffled base cannot put pictures of shape {tuple(donor[name].shape)} in place "
                f"of {tuple(inputs[name].shape)}"
            )
    return swapped


def _resized(patches: Tensor, grids: Tensor, wanted: Tensor, merge: int) -> Tensor:
    """Return the donor's patches (patches, values), picture by picture on the wanted grids."""
    pictures = patches.split([int(g.prod()) for g in grids])
    moved = []
    for number, target in enumerate(wanted.tolist()):
        t, h, w = grids[number % len(grids)].tolist()
        tokens = pictures[number % len(grids)].reshape(t, h // merge, w // merge, -1)
        frames, rows, columns = target[0], target[1] // merge, target[2] // merge
        tokens = tokens[_nearest(t, frames)][:, _nearest(h // merge, rows)]
        tokens = tokens[:, :, _nearest(w // merge, columns)]
        moved.append(tokens.reshape(-1, patches.shape[-1]))
    return torch.cat(moved)


def _nearest(have: int, want: int) -> Tensor:
    return ((torch.arange(want) + 0.5) * have / want).long().clamp(max=have - 1)


def final_answer(text: str) -> str:
    """Return what a vote counts: the last ``<answer>``, LaTeX box or line, in lower case."""
    for pattern in (r"<answer>(.*?)</answer>", r"\\boxed\{([^{}]*)\}"):
        found = re.findall(pattern, text, flags=re.DOTALL)
        if found:
            return " ".join(found[-1].lower().split())
    lines = [line for line in text.lower().splitlines() if line.strip()]
    return " ".join(lines[-1].split()) if lines else ""


def majority(texts: Sequence[str]) -> str:
    """Return the first text with the most frequent final answer (the earliest one in a tie)."""
    counts = Counter(final_answer(text) for text in texts)
    winner = max(counts, key=lambda answer: counts[answer])
    return next(text for text in texts if final_answer(text) == winner)
