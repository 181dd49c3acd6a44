"""Optimisers in the loop, on tiny pairs and with its other settings."""

from typing import Any

import pytest
import torch
from torch import Tensor

from replay_core import Steered, descent, memory
from replay_core.descent import _weights, descend, describe
from replay_core.model.graphs import Replayed
from replay_core.optimizers import OPTIMIZERS, state_bytes
from replay_core.problem import ReplayProblem
from tests.replay_core.bowls import NAMES, lbfgs
from tests.replay_core.helpers import Loaded, gap, rows_of, run, stable
from tests.replay_core.model.test_graphs import Recorder


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


def test_rows_of_a_pairs_batch_are_as_if_alone(loaded: Loaded) -> None:
    config = lbfgs(steps=6)
    together = rows_of(run(loaded, loaded.batch("mixed"), config))
    for row in (0, 2):
        alone = run(loaded, loaded.singles("mixed")[row], config)
        assert gap(together[row], alone.delta) < 1e-2  # rounding steers a curved path
        assert alone.samples[0].loss_after < alone.samples[0].loss_before


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
