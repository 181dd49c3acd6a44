"""A base in 8 or 4 bits, really loaded with bitsandbytes, which has kernels for the CPU."""

import pytest
import torch
from torch import nn

from replay_core import Steered, UsageError, load_pair, make_pair
from replay_core.pair import quantisation
from tests.replay_core.helpers import Loaded, gap, outcomes, stable
from tests.support import tiny


@pytest.mark.parametrize(("bits", "worst"), [("8bit", 0.9), ("4bit", 1.5)])
def test_a_quantised_base_gives_targets_near_the_whole_ones(
    one: Loaded, bits: str, worst: float
) -> None:
    pair = load_pair(one.folders.policy, one.folders.base, base_quantization=bits)
    base = pair.base
    assert type(base.layers[0].mlp.down_proj) is not nn.Linear
    assert type(base.head) is nn.Linear
    inputs = one.batch("mixed")
    config = stable(select="all", steps=3)
    result = Steered(pair, config).optimise(inputs)
    whole = Steered(one.pair, config).optimise(inputs)
    assert outcomes(result) == outcomes(whole)
    assert 0 < gap(result.delta, whole.delta) < worst


def test_only_the_decoder_is_quantised(one: Loaded) -> None:
    # The tower stays equal to the policy's, so that it runs once for both.
    pair = load_pair(one.folders.base, one.folders.base, base_quantization="8bit")
    assert pair.shared_vision
    held = {type(m) for m in pair.base.model.get_decoder().modules() if isinstance(m, nn.Linear)}
    assert nn.Linear not in held


class ForwardOnly(torch.autograd.Function):
    """A kernel without a backward, as bitsandbytes' 4-bit ones are on some processors."""

    @staticmethod
    def forward(ctx: object, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * 1


def test_a_policy_whose_kernels_have_no_backward_is_refused(one: Loaded) -> None:
    model = tiny.load_model(one.folders.policy)
    first = model.get_decoder().layers[0]
    first.mlp.down_proj.register_forward_hook(lambda *call: ForwardOnly.apply(call[2]))
    pair = make_pair(model, one.base)
    with pytest.raises(UsageError, match="no gradient flows through its first layer"):
        Steered(pair, stable())
    Steered(pair, stable(method="inject")).optimise(one.batch("one_image"))


def test_a_policy_that_stops_gradients_is_refused(one: Loaded) -> None:
    model = tiny.load_model(one.folders.policy)
    handle = model.get_decoder().layers[0].register_forward_hook(lambda *call: call[2].detach())
    with pytest.raises(UsageError, match="cannot be the policy of a replay"):
        Steered(make_pair(model, one.base), stable())
    handle.remove()
    layer = model.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda *call: call[2] * torch.tensor(0.0))
    with pytest.raises(UsageError, match="is not a finite, non-zero number"):
        Steered(make_pair(model, one.base), stable())
    handle.remove()


def test_without_bitsandbytes_the_way_to_it_is_named(
    one: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UsageError, match=r"a base in 8bit needs bitsandbytes.*\[quantised\]"):
        load_pair(one.folders.policy, one.folders.base, base_quantization="8bit")
