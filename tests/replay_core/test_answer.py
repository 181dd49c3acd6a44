"""k answers need one descent, and nothing is remembered for other inputs."""

from typing import Any

import torch

from replay_core import Steered
from replay_core.answer import Recent
from replay_core.digest import content_digest
from replay_core.record import Seconds
from tests.replay_core.helpers import Loaded, counted, stable


def inputs_of(one: Loaded, name: str = "two_images") -> dict[str, Any]:
    return dict(one.batch(name))


def test_the_same_batch_is_optimised_once(one: Loaded) -> None:
    recent = Recent(Steered(one.pair, stable(steps=2)))
    with counted(layer=one.pair.policy.layers[0]) as calls:
        first = recent.optimise(inputs_of(one), seeds=[1])
        ran = len(calls["layer"])
        again = recent.optimise(inputs_of(one), seeds=[1])
        assert len(calls["layer"]) == ran > 0
    assert again.delta is first.delta
    assert again.samples == first.samples
    assert first.seconds.loop > 0
    assert again.seconds == Seconds()


def test_other_pixels_or_seeds_are_another_batch(one: Loaded) -> None:
    recent = Recent(Steered(one.pair, stable(steps=1)))
    first = recent.optimise(inputs_of(one), seeds=[1])
    changed = inputs_of(one)
    changed["pixel_values"] = changed["pixel_values"].clone()
    changed["pixel_values"][0, 0] += 0.5
    assert not torch.equal(recent.optimise(changed, seeds=[1]).delta, first.delta)
    assert recent.optimise(inputs_of(one), seeds=[1]).delta is not first.delta  # only the last
    held = recent.optimise(inputs_of(one), seeds=[1])
    assert recent.optimise(inputs_of(one), seeds=[2]).delta is not held.delta


def test_what_is_forgotten_is_optimised_again(one: Loaded) -> None:
    recent = Recent(Steered(one.pair, stable(steps=1)))
    first = recent.optimise(inputs_of(one), seeds=[1])
    recent.forget()
    again = recent.optimise(inputs_of(one), seeds=[1])
    assert again.delta is not first.delta
    assert torch.equal(again.delta, first.delta)


def test_digests_change_with_name_shape_dtype_and_value() -> None:
    base = {"a": torch.arange(4)}
    others = [
        {"b": torch.arange(4)},
        {"a": torch.arange(4).reshape(2, 2)},
        {"a": torch.arange(4).float()},
        {"a": torch.tensor([0, 1, 2, 4])},
        {"a": torch.arange(4).bfloat16()},
    ]
    digests = {content_digest(inputs, [0]) for inputs in (base, *others)}
    assert len(digests) == 6
    assert content_digest(base, [0]) == content_digest({"a": torch.arange(4)}, [0])
    assert content_digest(base, [0]) != content_digest(base, [1])
