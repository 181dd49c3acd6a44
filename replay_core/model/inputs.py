"""What ``generate`` is given: the processor's whole output, and options beside it."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from replay_core.model.anatomy import Anatomy
from replay_core.model.vision import Inputs, check_complete


def split_arguments(
    anatomy: Anatomy, arguments: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split what ``generate`` takes into the processor's tensors and the generation options.

    Raises:
        UsageError: something of the processor's output is missing (:func:`check_complete`).
    """
    forward = inspect.signature(anatomy.model.forward).parameters
    # Some processors leave second_per_grid_ts a list.
    inputs = {
        name: value if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in arguments.items()
        if name in forward and isinstance(value, Tensor | list)
    }
    check_complete(anatomy.model, inputs)
    return inputs, {k: v for k, v in arguments.items() if k not in inputs}


def continued(inputs: Inputs, continuation: Tensor) -> dict[str, Tensor]:
    """Return left-padded prompts with the ids ``continuation`` (batch, t) behind them."""
    tails = {
        "input_ids": continuation,
        "attention_mask": torch.ones_like(continuation),
        "mm_token_type_ids": torch.zeros_like(continuation),
        "token_type_ids": torch.zeros_like(continuation),
    }
    longer = {
        name: torch.cat([inputs[name], tail.to(inputs[name])], dim=1)
        for name, tail in tails.items()
        if name in inputs
    }
    return {**inputs, **longer}


def savable(inputs: Inputs) -> dict[str, Tensor]:
    """Return tensors that autograd may save, whatever mode they were made in."""
    return {k: v.clone() if v.is_inference() else v for k, v in inputs.items()}
