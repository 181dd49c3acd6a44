"""Digests of what an answer depends on: settings, tokens, pixels."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that change with any setting."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def token_digest(*rows: Tensor) -> str:
    """Return 16 hexadecimal digits that change with any of the integer tensors."""
    state = hashlib.sha256()
    for row in rows:
        state.update(len(row).to_bytes(8, "little"))
        state.update(" ".join(map(str, row.tolist())).encode())
    return state.hexdigest()[:16]


def content_digest(inputs: Mapping[str, Tensor], seeds: Sequence[int]) -> str:
    """Return 64 hexadecimal digits that change with any value of the inputs, and with the seeds."""
    state = hashlib.sha256(repr(list(seeds)).encode())
    for name, value in sorted(inputs.items()):
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
