"""In half precision nothing is counted, summed or divided there: 256 + 1 is 256 in bfloat16.

Prompts have as many visual tokens as published images, so that more positions are masked at a layer
than the dtype can count to. The judges are the oracle and models in float64.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from replay_core import ReplayConfig, ReplayTargets, Steered, make_pair
from replay_core.candidates import Candidates
from replay_core.model.vision import VisualFeatures
from replay_core.problem import ReplayProblem
from replay_core.targets import LayerTarget
from tests.replay_core.helpers import Loaded, gap, judge, masks_of, outcomes, owner_of, run, stable
from tests.support import tiny

BOTH = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def pictured(loaded: Loaded, rows: int, columns: int) -> Mapping[str, Tensor]:
    """Return a prompt with one picture of ``rows`` x ``columns`` visual tokens."""
    side = tiny.VISUAL_TOKEN_PIXELS
    y, x = np.mgrid[: rows * side, : columns * side] / side
    waves = [np.sin(x * k + y * (3 - k)) for k in (0.5, 1.0, 1.7)]
    noise = np.random.default_rng(rows).normal(0, 0.3, (*x.shape, 3))
    pixels = np.clip(128 + 80 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)
    processor = deepcopy(loaded.processor)
    processor.image_processor.size = {"shortest_edge": side**2, "longest_edge": 4096 * side**2}
    picture = tiny.Image.fromarray(pixels)
    return tiny.make_inputs(processor, images=[[picture]], questions=["Find the area."])


def in_float64(loaded: Loaded) -> Loaded:
    """Return the same pair, its half-precision weights held in float64."""
    policy, base = (deepcopy(model).double() for model in (loaded.policy, loaded.base))
    return replace(loaded, pair=make_pair(policy, base))


def masks(loaded: Loaded, inputs: Mapping[str, Tensor], config: ReplayConfig) -> dict[int, Tensor]:
    (found,) = masks_of(Steered(loaded.pair, config).targets(inputs), owner_of(inputs))
    return found


@pytest.mark.parametrize(("rows", "columns"), [(12, 25), (28, 25)])  # N = 300 and 700
def test_x_with_many_masked_positions_is_the_oracles(
    load: Any, family: str, rows: int, columns: int
) -> None:
    loaded = load(family, torch.bfloat16)
    inputs, n = pictured(loaded, rows, columns), rows * columns
    config = stable("reference", threshold=0.85, step_size=6 * (n / 15) ** 2, steps=3)
    mine = masks(loaded, inputs, config)
    assert min(int(mask.sum()) for mask in mine.values()) > (256 if n == 700 else 128)
    expected = judge(loaded, inputs, config, mine)
    result = run(loaded, inputs, config)
    assert outcomes(result) == ["applied"]
    assert result.samples[0].losses == pytest.approx(expected.losses, rel=0.01)
    assert gap(result.delta.float(), expected.delta.float()) < 0.06
    # A few entropies lie so near their threshold that rounding decides; not more.
    clean = judge(loaded, inputs, config.model_copy(update={"steps": 0})).masks
    for layer, mask in mine.items():
        assert int((mask != clean[layer]).sum()) < 0.03 * n


@BOTH
@pytest.mark.parametrize(
    ("rows", "columns", "scaling"),
    [(12, 25, "published"), (28, 25, "published"), (28, 25, "tokens")],
)
def test_loss_and_gradient_are_those_of_float64(
    load: Any, dtype: torch.dtype, rows: int, columns: int, scaling: str
) -> None:
    # 1 / (N |M|) lies below the range of float16, 700² above it; 490,000 is 491,520 in bfloat16.
    loaded = load(dtype=dtype)
    inputs, n = pictured(loaded, rows, columns), rows * columns
    config = stable("reference", select="all", steps=1)
    expected = judge(in_float64(loaded), inputs, config)
    step = 0.1 if scaling == "tokens" else 0.1 * n**2
    result = run(
        loaded,
        inputs,
        config.model_copy(update={"step_scaling": scaling, "step_size": step}),
    )
    assert result.samples[0].losses[0] == pytest.approx(expected.losses[0], rel=0.01)
    gradient = result.delta.double() / (-0.1 * n**2)
    assert gap(gradient, expected.first_gradient) < (0.12 if dtype == torch.bfloat16 else 0.04)


@dataclass(frozen=True)
class Layers(ReplayProblem):
    """A problem of one sample whose layers' losses are given."""

    given: dict[int, float]

    def _policy_states(self, embeds: Tensor) -> dict[int, Tensor]:
        return {layer: torch.full((1, 1), value) for layer, value in self.given.items()}

    def _layer_loss(self, hidden: Tensor, target: LayerTarget) -> Tensor:
        return hidden[0].to(self.dtype)


@BOTH
@pytest.mark.parametrize("n", [300, 701, 3001])
def test_layers_are_summed_and_divided_by_n_in_float32(dtype: torch.dtype, n: int) -> None:
    given = {layer: 0.5 + 0.37 * layer for layer in range(24)}
    one = torch.zeros(1, dtype=torch.long)
    features = VisualFeatures({}, {}, torch.ones(1, 4, dtype=dtype), torch.ones(1, 1).bool())
    target = LayerTarget(one, torch.zeros(1, 1), None)
    targets = ReplayTargets(dict.fromkeys(given, target), {}, "", "")
    call: Any = type("Call", (), {"embeds": torch.zeros(1, 1, 4, dtype=dtype), "start": 0})()
    candidates = Candidates(one, one, one, torch.tensor([n]))
    config = stable("reference")
    problem = Layers(call, candidates, features, targets, config, given)
    assert problem.dtype == dtype
    (loss,) = problem.losses(torch.zeros(1, 4, dtype=dtype)).tolist()
    held = torch.tensor(list(given.values()), dtype=dtype).double()  # a layer's mean has the dtype
    assert loss == pytest.approx(float(held.sum()) / n, rel=1e-6)


def test_shares_of_injection_do_not_hang_on_the_default_dtype(load: Any) -> None:
    loaded = load(dtype=torch.bfloat16)
    inputs = pictured(loaded, 28, 25)
    steered = Steered(loaded.pair, stable(method="inject"))
    (expected,) = steered.optimise(inputs).samples
    torch.set_default_dtype(torch.bfloat16)
    try:
        (found,) = steered.optimise(inputs).samples
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.masked_fraction == expected.masked_fraction
    counts = [share * 700 for _, share in expected.masked_fraction]
    assert counts == pytest.approx([round(count) for count in counts], abs=1e-3)
