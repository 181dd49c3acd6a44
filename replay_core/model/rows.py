"""A batch taken apart: what the processor made of each of its prompts."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from replay_core.model.vision import Inputs, placeholder_masks

# Modality → its pixels, its grids, and what else there is one of for each picture or clip.
_VISUAL = {
    "image": ("pixel_values", "image_grid_thw", ()),
    "video": ("pixel_values_videos", "video_grid_thw", ("second_per_grid_ts",)),
}


def rows_of(model: PreTrainedModel, inputs: Inputs) -> list[dict[str, Tensor]] | None:
    """Return the processor's output for each prompt of a batch, padded as in the batch.

    None where it cannot be told which pixels are whose: known are the families whose processors
    flatten pictures to patches and return their grids (Qwen2-VL and those after it).
    """
    tokens = inputs["input_ids"]
    rows: list[dict[str, Tensor]] = [{} for _ in range(len(tokens))]
    visual = {name for pixels, grid, beside in _VISUAL.values() for name in (pixels, grid, *beside)}
    for name, value in inputs.items():
        if name in visual:
            continue
        if value.shape[:1] != tokens.shape[:1]:
            return None
        for at, row in enumerate(rows):
            row[name] = value[at : at + 1]
    masks = placeholder_masks(model, tokens)
    for modality, (pixels, grid, beside) in _VISUAL.items():
        if inputs.get(pixels) is None:
            continue
        if inputs.get(grid) is None or modality not in masks:
            return None
        owners = owners_of(inputs[grid], masks[modality].sum(1).tolist(), patches_per_token(model))
        if owners is None:
            return None
        patches = torch.tensor(owners).repeat_interleave(inputs[grid].prod(-1).cpu())
        for at, row in enumerate(rows):
            if at in owners:
                row[pixels] = inputs[pixels][(patches == at).to(inputs[pixels].device)]
                mine = torch.tensor([owner == at for owner in owners])
                for name in (grid, *beside):
                    if inputs.get(name) is not None:
                        row[name] = inputs[name][mine.to(inputs[name].device)]
    return rows


def patches_per_token(model: PreTrainedModel) -> int:
    """Return how many patches make one visual token."""
    side: int = getattr(getattr(model.config, "vision_config", None), "spatial_merge_size", 1)
    return side**2


def owners_of(grids: Tensor, wanted: Sequence[int], merged: int) -> list[int] | None:
    """Return whose each picture is; None where prompts do not hold whole pictures.

    ``wanted`` are the prompts' numbers of placeholder tokens; pictures stand in their order.
    """
    owners: list[int] = []
    sizes = iter((grids.prod(-1) // merged).tolist())
    for row, count in enumerate(wanted):
        while count > 0:
            count -= next(sizes, count + 1)
            owners.append(row)
        if count < 0:
            return None
    return owners if next(sizes, None) is None else None
