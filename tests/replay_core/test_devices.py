"""A model whose layers are spread by accelerate: here over memory and disk, as on several GPUs."""

from typing import Any

import pytest
import torch

from replay_core import Steered, UsageError, load_pair
from tests.replay_core.helpers import Loaded, outcomes, stable, told

OFF = {1, 3}


def spread(head: str = "cpu") -> dict[str, str]:
    text = "model.language_model"
    outside = ("model.visual", f"{text}.embed_tokens", f"{text}.norm", f"{text}.rotary_emb")
    layers = {f"{text}.layers.{n}": "disk" if n in OFF else "cpu" for n in range(5)}
    return {"lm_head": head, **dict.fromkeys(outside, "cpu"), **layers}


@pytest.mark.parametrize("method", ["replay", "inject"])
def test_spread_layers_change_nothing(one: Loaded, method: Any) -> None:
    inputs, config = one.batch("mixed"), stable(method=method, steps=5)
    pair = load_pair(one.folders.policy, one.folders.base, device_map=spread())
    assert next(pair.policy.layers[1].parameters()).is_meta
    ours, whole = Steered(pair, config), Steered(one.pair, config)
    result, expected = ours.optimise(inputs), whole.optimise(inputs)
    assert outcomes(result) == outcomes(expected)
    if method == "replay":
        assert torch.equal(result.delta, expected.delta)
    logits = [
        steered.decode(inputs, steered.optimise(inputs), **told()).logits[0]
        for steered in (ours, whole)
    ]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_a_head_that_is_not_in_memory_is_refused(one: Loaded) -> None:
    with pytest.raises(UsageError, match="weights of its head are packed or not in memory"):
        load_pair(one.folders.policy, one.folders.base, device_map=spread("disk"))
