"""Optimisers in the loop: on toy problems with known minima, and on tiny pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replay_core import ReplayConfig, Steered, descent, memory
from replay_core.answer import records_of
from replay_core.config import OptimizerName
from replay_core.descent import _LOOK_EVERY, _weights, descend, describe
from replay_core.model.graphs import Replayed
from replay_core.optimizers import LBFGS, OPTIMIZERS, state_bytes
from replay_core.problem import ReplayProblem
from tests.replay_core.helpers import Loaded, Toy, gap, rows_of, run, stable, toy
from tests.replay_core.model.test_graphs import Recorder

NAMES: list[OptimizerName] = ["plain", "lbfgs"]


@dataclass(frozen=True)
class Bowl(Toy):
    """Samples of one token, their losses 1 + Σ_j curves_j / 2 (x_j - lowest_j)², not a number
    where |x| exceeds ``edge``; ``seen`` are the x that the loop asks about."""

    curves: Tensor
    lowest: Tensor
    edge: float = math.inf
    seen: list[Tensor] = field(default_factory=list)

    def losses(self, delta: Tensor) -> Tensor:
        self.seen.append(delta.detach().clone())
        found = 1 + (self.curves / 2 * (delta - self.lowest).square()).sum(1)
        inside = torch.where(delta.detach().norm(dim=1) < self.edge, 1, torch.nan)
        return found * inside  # and so is the gradient


def bowl(
    config: ReplayConfig,
    curves: Sequence[Sequence[float]],
    lowest: Sequence[Sequence[float]],
    edge: float = math.inf,
) -> Bowl:
    """Return a problem of as many samples, of two dimensions each."""
    flat = [0.0] * len(curves)
    plain = toy(config, curve=flat, slope=flat, start=flat)
    return Bowl(**vars(plain), curves=torch.tensor(curves), lowest=torch.tensor(lowest), edge=edge)


def lbfgs(**changes: Any) -> ReplayConfig:
    return stable(**{"optimizer": "lbfgs", **changes})


def only(problem: Bowl, sample: int) -> Bowl:
    """Return the problem of one of the samples, alone."""
    index = slice(sample, sample + 1)
    curves, lowest = problem.curves[index].tolist(), problem.lowest[index].tolist()
    return bowl(problem.config, curves, lowest, problem.edge)


def written_out(problem: ReplayProblem) -> tuple[Tensor, Tensor]:
    """Return x and losses of plain descent as it was before there was another."""
    config, owner = problem.config, problem.owner
    x, (weight, rest) = problem.beginning[0].clone(), _weights(problem)
    losses = []
    for _ in range(config.steps):
        leaf = x.detach().requires_grad_()
        loss = problem.losses(leaf)
        (gradient,) = torch.autograd.grad((weight * loss).sum(), leaf)
        losses.append(loss.detach())
        moved = torch.ones(len(problem.candidates.visual), dtype=torch.bool)[owner, None]
        x -= config.step_size * rest * gradient.masked_fill(~moved, 0)
    with torch.no_grad():
        losses.append(problem.losses(x))
    return x, torch.stack(losses, dim=1).float()


# --- plain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
@pytest.mark.parametrize("scaling", [{}, {"step_scaling": "tokens", "step_size": 3e-3}])
def test_plain_is_bitwise_what_it_was(
    one: Loaded, one16: Loaded, boundary: str, scaling: dict[str, Any]
) -> None:
    for pair in (one, one16):
        config = stable(boundary, **scaling)
        problem = Steered(pair.pair, config).problem(pair.batch("two_images"))
        x, losses = written_out(problem)
        found = descend(problem)
        assert torch.equal(found.losses, losses)
        assert torch.equal(found.delta, x)
        assert x.any()


# --- known minima --------------------------------------------------------------------------------


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


# --- the safeguard -------------------------------------------------------------------------------


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


# --- every sample is its own ---------------------------------------------------------------------


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


def test_rows_of_a_pairs_batch_are_as_if_alone(loaded: Loaded) -> None:
    config = lbfgs(steps=6)
    together = rows_of(run(loaded, loaded.batch("mixed"), config))
    for row in (0, 2):
        alone = run(loaded, loaded.singles("mixed")[row], config)
        assert gap(together[row], alone.delta) < 1e-2  # rounding steers a curved path
        assert alone.samples[0].loss_after < alone.samples[0].loss_before


# --- with the loop's other settings --------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
@pytest.mark.parametrize(
    "more",
    [{}, {"step_scaling": "tokens", "step_size": 3e-3}, {"checkpointing": "on"}, {"top_k": "full"}],
    ids=str,
)
def test_fewer_steps_reach_the_plain_loops_loss(
    one: Loaded, boundary: str, more: dict[str, Any]
) -> None:
    inputs = one.batch("mixed")
    plain = run(one, inputs, stable(boundary, **more))
    found = run(one, inputs, lbfgs(boundary=boundary, steps=13, **more))
    for ours, theirs in zip(found.samples, plain.samples, strict=True):
        assert ours.outcome == theirs.outcome
        if theirs.loss_after is not None:
            assert ours.loss_after is not None
            assert ours.loss_after < theirs.loss_after
            assert ours.loss_after == min(ours.losses)


def test_reference_in_bfloat16_descends_too(one16: Loaded) -> None:
    result = run(one16, one16.batch("two_images"), lbfgs(boundary="reference", steps=10))
    assert result.delta.dtype == torch.bfloat16
    for sample in result.samples:
        assert sample.outcome == "applied"
        assert sample.loss_after < 0.9 * sample.loss_before


def test_kept_tokens_do_not_move(one: Loaded) -> None:
    inputs = one.batch("two_images")
    steered = Steered(one.pair, lbfgs(steps=6))
    kept = 0.5 * steered.optimise(inputs).of(0)[:3]
    result = steered.optimise(inputs, kept=[kept])
    assert torch.equal(result.of(0)[:3], kept)
    assert result.of(0)[3:].norm(dim=-1).min() > 0
    assert result.samples[0].loss_after < result.samples[0].loss_before


def test_it_begins_at_another_x(one: Loaded) -> None:
    problem = Steered(one.pair, lbfgs(steps=6)).problem(one.batch("two_images"))
    few = descend(problem)
    begun = problem.begun_at(few.delta)
    (sample,) = describe(begun, descend(begun))
    assert sample.losses[0] == pytest.approx(float(few.loss_after), rel=1e-5)
    assert sample.loss_after < sample.losses[0] < sample.loss_before


def test_noise_takes_its_norms(one: Loaded) -> None:
    inputs = one.batch("two_images")
    found, noise = (run(one, inputs, lbfgs(steps=4, x=x)) for x in ("optimised", "random"))
    torch.testing.assert_close(noise.delta.norm(dim=-1), found.delta.norm(dim=-1))
    assert gap(noise.delta, found.delta) > 0.5


def test_a_replayed_loop_ends_where_the_other_does(
    one: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay writes its gradient over the last one, which is still needed."""
    inputs, config = one.batch("mixed"), lbfgs(steps=6)
    plain = run(one, inputs, config)
    recorder = Recorder()
    monkeypatch.setattr(memory, "_worth_recording", lambda problem: True)
    monkeypatch.setattr(descent, "Replayed", lambda work: Replayed(work, recorder))
    replayed = run(one, inputs, config)
    assert recorder.replayed == 5
    assert torch.equal(replayed.delta, plain.delta)
    assert [s.losses for s in replayed.samples] == [s.losses for s in plain.samples]


def test_what_it_holds_is_part_of_the_estimate(one: Loaded) -> None:
    inputs = one.batch("two_images")
    plans = {name: run(one, inputs, stable(steps=1, optimizer=name)).memory for name in NAMES}
    x = run(one, inputs, stable(steps=1)).delta
    more = plans["lbfgs"].needed_mb - plans["plain"].needed_mb
    assert more * 2**20 == state_bytes("lbfgs", x) >= 14 * x.numel() * 4
    assert state_bytes("plain", x) == 0


def test_every_name_has_its_optimizer() -> None:
    assert list(OPTIMIZERS) == NAMES


# --- tolerance -----------------------------------------------------------------------------------


def left_at(losses: Sequence[float], tolerance: float) -> int:
    """Return the step at which two changes in a row are small, or the last one."""
    small = [abs(b - a) <= tolerance * losses[0] for a, b in pairwise(losses)]
    return next((n + 2 for n, both in enumerate(pairwise(small)) if all(both)), len(losses) - 1)


@pytest.mark.parametrize("optimizer", NAMES)
@pytest.mark.parametrize("tolerance", [0.3, 0.01, 1e-4])
def test_a_sample_leaves_when_its_loss_hardly_changes(
    one: Loaded, optimizer: OptimizerName, tolerance: float
) -> None:
    inputs = one.batch("mixed")
    config = stable(optimizer=optimizer, steps=20)
    whole, found = (run(one, inputs, config.changed(tolerance=some)) for some in (0, tolerance))
    for row, (all_of_it, sample) in enumerate(zip(whole.samples, found.samples, strict=True)):
        if not all_of_it.losses:
            continue
        steps = left_at(all_of_it.losses, tolerance)
        assert sample.steps == steps
        assert sample.losses == all_of_it.losses[: steps + 1]
        short = run(one, inputs, config.changed(steps=steps))
        assert torch.equal(rows_of(found)[row], rows_of(short)[row])
        assert sample.loss_after == short.samples[row].loss_after


def test_samples_leave_one_by_one_and_the_loop_ends_with_the_last() -> None:
    config = stable(step_size=0.1, steps=500, tolerance=1e-3)
    problem = bowl(config, [[9, 9], [1, 1], [0.2, 0.2]], [[1.0, 1.0]] * 3)
    found = descend(problem)
    samples = describe(problem, found)
    steps = [sample.steps for sample in samples]
    assert 0 < steps[0] < steps[1] < steps[2] < 400
    last = found.losses.shape[1] - 1
    assert steps[2] <= last <= steps[2] + _LOOK_EVERY
    for number, step in enumerate(steps):
        x = problem.seen[step][number]
        assert torch.equal(found.delta[number], x)
        assert all(torch.equal(later[number], x) for later in problem.seen[step : last + 1])


def test_a_sample_that_left_does_not_move_where_a_trial_rose() -> None:
    """Sample 0 rises a little wherever it goes, by two trials; sample 1 goes on."""

    @dataclass(frozen=True)
    class Rising(Bowl):
        def losses(self, delta: Tensor) -> Tensor:
            found = super().losses(delta)
            here = delta[0].detach()
            return torch.stack([1 + 0.01 * here.any() + (delta[0] - here).sum(), found[1]])

    config = lbfgs(step_size=0.01, steps=12, tolerance=0.02)
    problem = Rising(**vars(bowl(config, [[1, 1], [1, 50]], [[1.0, 1.0], [1.0, 2.0]])))
    found = descend(problem)
    still, other = describe(problem, found)
    assert (still.steps, still.outcome.value) == (2, "no_effect")
    assert other.steps > 2
    xs = [x[0] for x in problem.seen]
    assert not torch.equal(xs[1], xs[2])
    assert all(torch.equal(x, xs[2]) for x in xs[2 : other.steps + 1])


def test_a_change_of_nothing_is_no_reason_without_a_tolerance() -> None:
    problem = bowl(stable(step_size=0.1, steps=30), [[9, 9]], [[0.0, 0.0]])
    assert describe(problem, descend(problem))[0].steps == 30


def test_the_record_says_how_many_steps_were_taken(one: Loaded) -> None:
    steered = Steered(one.pair, lbfgs(steps=25, tolerance=0.05))
    result = steered.optimise(one.batch("two_images"))
    (record,) = records_of(steered, result)
    assert record.steps == result.samples[0].steps < 20
    assert record.loss_after == result.samples[0].loss_after
