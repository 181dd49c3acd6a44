"""Where the padding of a batch stands: on the left, before anything else is done."""

import torch
from torch import Tensor

from replay_core.model.vision import Inputs


def attention_mask_of(inputs: Inputs) -> Tensor:
    """Return the batch's attention mask (batch, tokens), all ones where it has none."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def left_padded(inputs: Inputs) -> dict[str, Tensor]:
    """Return the batch with every row's padding moved to its left; pixels are untouched.

    Raises:
        ValueError: an attention mask has holes.
    """
    mask = attention_mask_of(inputs)
    lengths = mask.bool().sum(1)  # a mask in bfloat16 would count to 256 only
    columns = torch.arange(mask.shape[1], device=mask.device)
    ends = torch.where(mask.bool(), columns, -1).amax(1) + 1
    shift = mask.shape[1] - ends
    solid = (columns < ends[:, None]) & (columns >= (ends - lengths)[:, None])
    if not torch.equal(mask.bool(), solid):
        raise ValueError("the attention mask has holes; prompts must be padded on one side only")
    if not shift.any():
        return dict(inputs)
    source = (columns[None] - shift[:, None]) % mask.shape[1]
    moved = {}
    for name, value in inputs.items():
        aligned = value.ndim == 2 and value.shape == mask.shape and not value.is_floating_point()
        moved[name] = value.gather(1, source) if aligned else value
    return moved
