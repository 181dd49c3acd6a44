"""Every tensor moves, however deep it stands, and nothing else changes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from replay_core.model.devices import on_device


@dataclass(frozen=True)
class Held:
    by_layer: dict[int, Tensor | None]
    note: str


def devices_of(value: Any) -> list[str]:
    if isinstance(value, Tensor):
        return [value.device.type]
    if isinstance(value, Held):
        return devices_of(value.by_layer)
    parts = value.values() if isinstance(value, dict) else value
    return [d for part in parts if not isinstance(part, str | None) for d in devices_of(part)]


def test_every_tensor_is_on_the_device() -> None:
    one = torch.ones(2)
    output = BaseModelOutputWithPooling(pooler_output=(one, one), last_hidden_state=one)
    given = {"a": Held({3: one, 4: None}, "words"), "b": [one], "c": (one, "text"), "d": output}
    there = on_device(given, "meta")
    assert devices_of(there) == ["meta"] * 6
    assert devices_of(given) == ["cpu"] * 6
    assert there["a"].note == "words"
    assert there["a"].by_layer.keys() == {3, 4}
    assert there["c"][1] == "text"
    assert [type(part) for part in there.values()] == [type(part) for part in given.values()]
    assert isinstance(there["d"].pooler_output, tuple)
