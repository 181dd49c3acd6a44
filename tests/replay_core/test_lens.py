"""The logit lens and the entropy, against the model's own output and torch.distributions."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical

from replay_core import lens as module
from replay_core.divergence import kl
from replay_core.lens import Lens, entropy
from tests.replay_core.helpers import Loaded


def states(rows: int = 7, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(0)).to(dtype)


def formula(loaded: Loaded, hidden: Tensor) -> Tensor:
    """Return head(RMSNorm(h)) in float64, spelled out."""
    norm, h = loaded.pair.policy.norm, hidden.double()
    normed = norm.weight.double() * h / (h.square().mean(-1, True) + norm.variance_epsilon).sqrt()
    return normed @ loaded.pair.policy.head.weight.double().T


def test_after_the_last_layer_it_reads_the_models_own_logits(loaded: Loaded) -> None:
    with torch.no_grad():
        output = loaded.policy.get_decoder()(input_ids=torch.arange(8)[None])
        logits = loaded.policy(input_ids=torch.arange(8)[None]).logits[0]
    # last_hidden_state is normed already: read the state in front of the norm.
    seen: list[Tensor] = []
    handle = loaded.pair.policy.norm.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        loaded.policy(input_ids=torch.arange(8)[None])
    handle.remove()
    torch.testing.assert_close(Lens(loaded.pair.policy).normed(seen[0][0]), output[0][0])
    torch.testing.assert_close(Lens(loaded.pair.policy).logits(seen[0][0]), logits)


def test_a_float32_lens_reads_a_bfloat16_model_in_float32(one16: Loaded) -> None:
    hidden = states(dtype=torch.bfloat16)
    logits = Lens(one16.pair.policy).logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), formula(one16, hidden), rtol=1e-5, atol=1e-5)
    assert one16.pair.policy.norm.weight.dtype == torch.bfloat16


def test_the_reference_lens_reads_in_the_models_own_dtype(one16: Loaded) -> None:
    hidden = states(dtype=torch.bfloat16)
    anatomy = one16.pair.policy
    logits = Lens(anatomy, torch.bfloat16).logits(hidden)
    assert torch.equal(logits, anatomy.head(anatomy.norm(hidden)))


@pytest.mark.parametrize("bias", [False, True])
def test_logits_at_are_the_same_logits(one: Loaded, bias: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(64, 384, bias=bias)
    lens = Lens(replace(one.pair.policy, head=head))
    hidden = states()
    ids = torch.stack([torch.randperm(384)[:5] for _ in hidden])
    expected = head(one.pair.policy.norm(hidden))
    torch.testing.assert_close(lens.logits(hidden), expected)
    torch.testing.assert_close(lens.logits(hidden, ids), expected.gather(1, ids))


def test_chunks_are_the_logits_in_pieces(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 3 * 384 + 1)
    lens, hidden = Lens(one.pair.policy), states(7)
    pieces = list(lens.chunks(hidden))
    assert [len(logits) for _, logits in pieces] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([logits for _, logits in pieces]), lens.logits(hidden))
    for rows, logits in pieces:
        torch.testing.assert_close(logits, lens.logits(hidden[rows]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12))
def test_entropy_is_that_of_torch_distributions(values: list[float]) -> None:
    logits = torch.tensor(values)
    actual = entropy(logits)
    expected = Categorical(logits=logits.double()).entropy().float()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert 0 <= actual <= math.log(len(values)) * (1 + 1e-5)


def test_entropy_of_equal_logits_is_the_log_of_their_number() -> None:
    torch.testing.assert_close(entropy(torch.zeros(2, 6)), torch.full((2,), math.log(6)))


def test_entropy_of_certainty_is_zero() -> None:
    assert entropy(torch.tensor([0.0, -torch.inf, -torch.inf])) == 0


def test_an_id_that_is_ruled_out_adds_nothing_and_one_that_is_no_number_shows() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, torch.nan, 1.0]])
    even, broken = entropy(logits)
    assert float(even) == pytest.approx(math.log(2))
    assert broken.isnan()


@pytest.mark.parametrize("top_k", [50, "full"])
@pytest.mark.parametrize("pieces", [1, 4])
def test_the_divergence_and_its_gradient_are_autograds(
    one: Loaded, monkeypatch: pytest.MonkeyPatch, top_k: int | str, pieces: int
) -> None:
    lens, base, hidden = Lens(one.pair.policy), states(), states().roll(1, 0).requires_grad_()
    ids = None if top_k == "full" else lens.logits(base).topk(50).indices
    log_probs = lens.log_probs(base, ids).detach()
    weight = torch.linspace(-1, 2, len(hidden))
    plain = kl(log_probs, lens.log_probs(hidden, ids))
    (expected,) = torch.autograd.grad((weight * plain).sum(), hidden)
    head = lens.anatomy.head
    at_once = head.out_features if ids is None else 50 * head.in_features
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", at_once * -(-len(hidden) // pieces))
    assert len(list(lens.slices(len(hidden), ids))) == pieces
    found = lens.divergence(hidden, log_probs, ids)
    (gradient,) = torch.autograd.grad((weight * found).sum(), hidden)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert float(gradient.norm()) > 1e-3


def test_the_divergence_of_equal_activations_is_nothing_in_pieces_too(
    one: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    lens, hidden = Lens(one.pair.policy), states()
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 3 * lens.anatomy.head.out_features)
    assert lens.divergence(hidden, lens.log_probs(hidden, None), None).eq(0).all()
