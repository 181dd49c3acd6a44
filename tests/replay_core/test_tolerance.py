"""A sample that has converged leaves the loop, and says when."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from replay_core import Steered
from replay_core.answer import records_of
from replay_core.config import OptimizerName
from replay_core.descent import _LOOK_EVERY, descend, describe
from tests.replay_core.bowls import NAMES, Bowl, bowl, lbfgs
from tests.replay_core.helpers import Loaded, rows_of, run, stable


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
