"""Optimisers in the loop, on toy problems with known minima."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replay_core.config import OptimizerName
from replay_core.descent import descend, describe
from replay_core.optimizers import LBFGS
from tests.replay_core.bowls import NAMES, Bowl, bowl, lbfgs, only
from tests.replay_core.helpers import Toy, stable, toy

# --- known minima ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [1e-4, 0.01, 1.0, 1e4])
def test_a_quadratic_is_minimised_whatever_the_step_size(step_size: float) -> None:
    lowest = [[1.0, -2.0], [0.5, 0.1]]
    problem = bowl(lbfgs(step_size=step_size, steps=20), [[1, 50], [3, 3]], lowest)
    found = descend(problem)
    torch.testing.assert_close(found.delta, torch.tensor(lowest), atol=1e-3, rtol=1e-3)
    assert [outcome.value for outcome in found.outcomes] == ["applied", "applied"]
    plain = descend(replace(problem, config=stable(step_size=0.01, steps=20)))
    assert (found.loss_after < plain.loss_after).all()


def test_its_first_step_is_the_plain_one() -> None:
    settings = {"step_size": 0.01, "steps": 1}
    curves, lowest = [[1.0, 50.0]], [[1.0, 2.0]]
    plain = descend(bowl(stable(**settings), curves, lowest))
    assert torch.equal(descend(bowl(lbfgs(**settings), curves, lowest)).delta, plain.delta)


def test_a_curve_that_bends_down_is_no_obstacle() -> None:
    """At x = 0 the loss is concave along the first step: the moves tell of no curvature."""

    @dataclass(frozen=True)
    class Hill(Toy):
        def losses(self, delta: Tensor) -> Tensor:
            return 3 + torch.cos(delta + 0.3).sum(1)

    config = lbfgs(step_size=0.2, steps=25)
    found = descend(Hill(**vars(toy(config, curve=[0], slope=[0], start=[0]))))
    assert float(found.loss_after) == pytest.approx(1, abs=1e-3)


def test_a_direction_that_does_not_descend_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample 0 is told to climb: it takes plain steps. Sample 1 is told what it found."""
    found_by = LBFGS._suggested

    def misled(self: LBFGS, gradient: Tensor) -> Tensor:
        good = found_by(self, gradient)
        return torch.stack([gradient[0], good[1]])

    settings = {"step_size": 0.02, "steps": 9}
    curves, lowest = [[1.0, 50.0]] * 2, [[1.0, 2.0]] * 2
    right = descend(bowl(lbfgs(**settings), curves, lowest))
    monkeypatch.setattr(LBFGS, "_suggested", misled)
    found = descend(bowl(lbfgs(**settings), curves, lowest))
    plain = descend(bowl(stable(**settings), curves, lowest))
    torch.testing.assert_close(found.losses[0], plain.losses[0])
    assert torch.equal(found.losses[1], right.losses[1])


# --- the safeguard --------------------------------------------------------------------------------


def test_a_step_that_raises_the_loss_is_gone_back_from_and_shortened() -> None:
    problem = bowl(lbfgs(step_size=40.0, steps=8), [[1, 9]], [[1.0, 2.0]])
    found = descend(problem)
    losses, xs = found.losses[0].tolist(), [x[0] for x in problem.seen]
    at, length, rises = 0, math.inf, 0
    for step in range(1, len(losses)):
        moved = float((xs[step] - xs[at]).norm())
        if step - 1 != at:  # the last one rose: shorter from the same place, along the same line
            rises += 1
            assert 0.099 * length < moved < 0.501 * length
            before, now = xs[step - 1] - xs[at], xs[step] - xs[at]
            assert float(torch.cosine_similarity(before, now, dim=0)) > 1 - 1e-5
        length = moved
        at = step if losses[step] <= losses[at] else at
    assert rises >= 2
    assert float(found.loss_after) == min(losses) < 1.1
    (sample,) = describe(problem, found)
    assert (sample.outcome.value, sample.rose) == ("applied", True)


def test_a_step_to_where_there_is_no_number_is_gone_back_from() -> None:
    settings = {"step_size": 1.0, "steps": 12}
    curves, lowest, edge = [[1.0, 9.0]], [[1.0, 2.0]], 3.0
    plain = descend(bowl(stable(**settings), curves, lowest, edge))
    assert plain.outcomes[0].value == "non_finite"
    problem = bowl(lbfgs(**settings), curves, lowest, edge)
    found = descend(problem)
    first, second = (x[0] for x in problem.seen[1:3])
    assert found.losses[0, 1].isnan()
    torch.testing.assert_close(second, first / 10)
    assert found.outcomes[0].value == "applied"
    torch.testing.assert_close(found.delta, torch.tensor(lowest), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_a_start_without_a_number_is_non_finite_all_the_same(boundary: str) -> None:
    found = descend(bowl(lbfgs(boundary=boundary), [[1, 1]], [[1.0, 1.0]], edge=0.0))
    assert found.losses.shape == (1, 1)
    assert found.outcomes[0].value == "non_finite"
    assert not found.delta.any()


def test_a_lower_loss_without_a_gradient_ends_its_own_sample_only() -> None:
    @dataclass(frozen=True)
    class Cusp(Bowl):
        def losses(self, delta: Tensor) -> Tensor:
            root = (delta[1] * (delta[1] == 0)).abs().sum().sqrt()  # 0 everywhere, no slope
            return super().losses(delta) + torch.stack([torch.zeros(()), root])

    plain = bowl(lbfgs(step_size=0.05, steps=6), [[1, 9]] * 2, [[1.0, 2.0]] * 2)
    found = descend(Cusp(**vars(plain)))
    assert [outcome.value for outcome in found.outcomes] == ["applied", "non_finite"]
    assert torch.equal(found.delta[0], descend(only(plain, 0)).delta[0])


SIZES = st.floats(-4, 4).map(lambda power: 10**power)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(SIZES, min_size=2, max_size=2),
    SIZES,
    st.floats(0.1, 10),
    st.integers(0, 12),
)
def test_no_sample_ends_above_its_start(
    curves: list[float], step_size: float, edge: float, steps: int
) -> None:
    problem = bowl(lbfgs(step_size=step_size, steps=steps), [curves], [[0.3, -0.7]], edge)
    found = descend(problem)
    finite = found.losses[found.losses.isfinite()]
    assert float(found.loss_after) == float(finite.min()) <= float(found.losses[0, 0])
    assert found.outcomes[0].value in ("applied", "no_effect")
    if found.outcomes[0].value == "applied":
        assert torch.equal(problem.losses(found.delta), found.loss_after)
    assert found.delta.isfinite().all()


# --- every sample is its own ----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", NAMES)
@pytest.mark.parametrize("tolerance", [0, 0.01])
def test_samples_of_a_batch_are_bitwise_as_if_alone(
    optimizer: OptimizerName, tolerance: float
) -> None:
    """One glides, one rises and goes back, one meets no number; one has converged long before."""
    config = stable(step_size=0.3, steps=12, optimizer=optimizer, tolerance=tolerance)
    curves = [[1.0, 2.0], [1.0, 30.0], [0.1, 400.0], [3.0, 3.0]]
    problem = bowl(config, curves, [[1.0, -2.0], [0.5, 0.3], [1.0, 4.0], [0.1, 0.1]], edge=20.0)
    together = descend(problem)
    samples = describe(problem, together)
    for number, sample in enumerate(samples):
        alone = only(problem, number)
        found = descend(alone)
        (expected,) = describe(alone, found)
        assert torch.equal(together.delta[number], found.delta[0])
        assert sample.losses[: len(expected.losses)] == pytest.approx(
            expected.losses, rel=0, abs=0, nan_ok=True
        )
        assert sample.outcome == expected.outcome
        assert sample.loss_after == pytest.approx(expected.loss_after, rel=0, abs=0, nan_ok=True)
