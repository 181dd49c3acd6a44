"""KL and the mean per sample, against torch.distributions and plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from replay_core.divergence import kl, masked_mean

FLOATS = st.floats(-20, 20, width=32)


def log_probs(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1)


@st.composite
def two_logits(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    size = draw(st.integers(2, 9))
    row = st.lists(FLOATS, min_size=size, max_size=size)
    return torch.tensor(draw(row)), torch.tensor(draw(row))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(two_logits())
def test_kl_is_that_of_torch_distributions(logits: tuple[Tensor, Tensor]) -> None:
    base, policy = logits
    actual = kl(log_probs(base), log_probs(policy))
    expected = kl_divergence(Categorical(logits=base), Categorical(logits=policy))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert actual >= -1e-5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(two_logits())
def test_kl_of_equal_sides_is_exactly_zero(logits: tuple[Tensor, Tensor]) -> None:
    assert kl(log_probs(logits[0]), log_probs(logits[0])) == 0


def test_kl_is_from_base_to_policy_and_not_back() -> None:
    base, policy = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    there = 0.5 * torch.log(base / policy).sum()
    back = (policy * torch.log(policy / base)).sum()
    torch.testing.assert_close(kl(base.log(), policy.log()), there)
    assert not torch.isclose(there, back)


def test_kl_keeps_the_leading_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    base, policy = (log_probs(torch.randn(2, 3, 5, generator=generator)) for _ in range(2))
    assert kl(base, policy).shape == (2, 3)
    torch.testing.assert_close(kl(base, policy)[1, 2], kl(base[1, 2], policy[1, 2]))


def test_an_id_that_the_base_rules_out_adds_nothing() -> None:
    base = torch.tensor([0.0, -torch.inf])
    policy = torch.tensor([0.25, 0.75]).log()
    torch.testing.assert_close(kl(base, policy), -policy[0])
    assert kl(base, base) == 0


def test_gradients_of_the_loss_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    base = log_probs(torch.randn(4, 7, generator=generator, dtype=torch.float64))
    policy = torch.randn(4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 2, 2, 2])

    def loss(logits: Tensor) -> Tensor:
        return masked_mean(kl(base, log_probs(logits)), owner, 3)

    assert torch.autograd.gradcheck(loss, [policy])
    (gradient,) = torch.autograd.grad(loss(policy).sum(), policy)
    share = torch.tensor([1, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(gradient, share[:, None] * (policy.softmax(-1) - base.exp()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), max_size=12))
def test_masked_mean_is_the_mean_of_each_sample(pairs: list[tuple[int, float]]) -> None:
    owner = torch.tensor([sample for sample, _ in pairs], dtype=torch.long)
    values = torch.tensor([value for _, value in pairs], dtype=torch.float64)
    for sample, mean in enumerate(masked_mean(values, owner, 4).tolist()):
        mine = [value for who, value in pairs if who == sample]
        assert mean == pytest.approx(sum(mine) / len(mine) if mine else 0)


@pytest.mark.parametrize("n", [300, 700, 3000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_a_mean_of_many_half_precision_values_is_that_of_float64(
    dtype: torch.dtype, n: int
) -> None:
    generator = torch.Generator().manual_seed(n)
    values = (1 + torch.rand(n + 7, generator=generator)).to(dtype).requires_grad_(True)
    owner = torch.tensor([1] * n + [0] * 7)[torch.randperm(n + 7, generator=generator)]
    means = masked_mean(values, owner, 3)
    assert means.dtype == dtype
    eps = torch.finfo(dtype).eps
    for sample in (0, 1):
        mine = values[owner == sample].detach().double()
        assert means[sample].item() == pytest.approx(mine.mean().item(), rel=eps)
    (gradient,) = torch.autograd.grad(means[1], values)
    assert gradient.dtype == dtype
    expected = (owner == 1).double() / n
    torch.testing.assert_close(gradient.double(), expected, rtol=eps, atol=0)


def test_a_mean_in_float64_stays_there() -> None:
    values = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    mean = masked_mean(values, torch.zeros(2, dtype=torch.long), 1)[0]
    assert mean.dtype == torch.float64
    assert mean.item() == 1 + 5e-13
