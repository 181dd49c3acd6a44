"""The same values on another device."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

T = TypeVar("T")


def on_device(value: T, device: torch.device | str) -> T:
    """Return ``value`` with every tensor in it on ``device``.

    Looks into dataclasses, a model's outputs, dicts, lists and tuples; what else stands in them is
    shared.
    """
    found: Any = value
    if isinstance(value, Tensor):
        return found.to(device)
    if isinstance(value, ModelOutput):
        return type(found)(**{key: on_device(part, device) for key, part in found.items()})
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(found, **on_device(parts, device))
    if isinstance(value, Mapping):
        return {key: on_device(part, device) for key, part in found.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(found)(on_device(part, device) for part in found)
    return value
