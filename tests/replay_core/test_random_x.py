"""x=random: noise of the same norms, in the same samples, whatever stands beside them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from replay_core import ReplayResult, Steered
from replay_core.descent import descend, describe, randomised
from replay_core.model.call import DecoderCall
from tests.replay_core.helpers import Loaded, greedy, outcomes, rows_of, run, stable, toy
from tests.support import oracle


def noise(one: Loaded, inputs: Any, seeds: list[int] | None = None, **how: Any) -> ReplayResult:
    return Steered(one.pair, stable(x="random", **how)).optimise(inputs, seeds=seeds)


def directions(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=-1)


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_every_token_has_the_norm_of_its_x_and_another_direction(
    loaded: Loaded, boundary: str
) -> None:
    inputs = loaded.batch("mixed")
    x = run(loaded, inputs, stable(boundary, steps=3)).delta
    drawn = Steered(loaded.pair, stable(boundary, steps=3, x="random")).optimise(inputs).delta
    torch.testing.assert_close(drawn.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=0)
    reached = x.any(-1)  # no loss hangs on a token behind the last one that is matched
    assert reached.sum() > 30
    cosines = functional.cosine_similarity(x, drawn, dim=-1)[reached]
    assert cosines.abs().max() < 0.6  # of 64 values: 1/8 in the mean
    assert abs(cosines.mean()) < 0.1


def test_noise_is_gaussian_in_every_direction(one: Loaded) -> None:
    units = directions(noise(one, one.batch("mixed"), steps=1).delta)
    assert units.mean(0).norm() < 0.3  # 1 if all tokens had one direction
    assert (units @ units.T - torch.eye(len(units))).abs().max() < 0.6


def test_noise_does_not_hang_on_the_batch(one: Loaded) -> None:
    together = rows_of(noise(one, one.batch("mixed"), [5, 6, 7], steps=2))
    for row, seed in ((0, 5), (2, 7)):
        alone = noise(one, one.singles("mixed")[row], [seed], steps=2).delta
        torch.testing.assert_close(directions(together[row]), directions(alone))


def test_noise_follows_from_the_seeds(one: Loaded) -> None:
    inputs = one.batch("mixed")
    first, again, other = (
        rows_of(noise(one, inputs, seeds, steps=1)) for seeds in ([1, 2, 3], [1, 2, 3], [1, 2, 4])
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[0], other[0])
    assert torch.equal(first[2], again[2])
    assert not torch.equal(first[2], other[2])
    by_config = [noise(one, inputs, steps=1, seed=seed).delta for seed in (0, 0, 1)]
    assert torch.equal(by_config[0], by_config[1])
    assert not torch.equal(by_config[0], by_config[2])


def test_no_global_stream_is_drawn_from(one: Loaded) -> None:
    before = torch.get_rng_state()
    noise(one, one.batch("one_image"), steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_samples_are_steered() -> None:
    # One falls, one stays at its floor, one climbs.
    problem = toy(stable(step_size=0.1), curve=[1, 0, 30], slope=[1, 0, 1], start=[9, 0, 9])
    descent = descend(problem)
    drawn = randomised(problem, descent, [1, 2, 3])
    assert [outcome.value for outcome in descent.outcomes] == ["applied", "no_drift", "diverged"]
    assert drawn.outcomes == descent.outcomes
    assert drawn.delta.any(-1).tolist() == [True, False, False]
    # What was not steered keeps the loss for which it was not.
    assert torch.equal(drawn.loss_after[1:], descent.loss_after[1:])
    assert drawn.loss_after[2] > drawn.losses[2, 0]


def test_the_loss_at_the_end_is_that_of_the_noise() -> None:
    problem = toy(stable(step_size=0.1, steps=4), curve=[1, 2], slope=[1, -1], start=[9, 9])
    descent = descend(problem)
    drawn = randomised(problem, descent, [1, 2])
    x = drawn.delta.double()
    slope, curve = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 2.0])
    expected = 9 + slope * x.sum(1) + curve / 2 * x.square().sum(1)
    for sample, loss in zip(describe(problem, drawn), expected.tolist(), strict=True):
        assert sample.loss_after == pytest.approx(loss, rel=1e-6)
        assert sample.loss_before == 9
    assert not torch.allclose(drawn.loss_after, descent.loss_after)


def test_the_loss_of_the_noise_is_the_oracles(one: Loaded) -> None:
    inputs = one.batch("two_images")
    config = stable(steps=3, x="random")
    result = run(one, inputs, config)
    shared = {"layers": config.layers, "threshold": config.threshold, "boundary": "aligned"}
    targets = oracle.oracle_targets(one.base, inputs, **shared)
    loss, _ = oracle.oracle_gradient(
        one.policy, inputs, result.delta, targets, boundary="aligned", top_k=50
    )
    (sample,) = result.samples
    assert sample.loss_after == pytest.approx(loss, rel=1e-4)
    assert sample.loss_after > sample.losses[-1]  # what was optimised is better


def test_zero_steps_leave_x_zero(one: Loaded) -> None:
    inputs = one.batch("mixed")
    result = noise(one, inputs, steps=0)
    assert not result.delta.any()
    assert outcomes(result) == ["no_effect", "no_visual_tokens", "no_effect"]
    assert result.samples[0].loss_after == result.samples[0].loss_before
    answer = Steered(one.pair, stable(steps=0, x="random")).generate(**inputs, **greedy())
    assert torch.equal(answer, one.policy.generate(**inputs, **greedy()))


def test_text_alone_is_the_plain_policys(one: Loaded) -> None:
    text = one.singles("mixed")[1]
    result = noise(one, text, steps=1)
    assert (outcomes(result), result.delta) == (["no_visual_tokens"], None)


def test_a_batch_without_memory_is_the_plain_policys(
    one: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    inputs = one.batch("mixed")
    with monkeypatch.context() as patch:
        patch.setattr(DecoderCall, "activations", full)
        result = noise(one, inputs, steps=1)
    assert outcomes(result) == ["out_of_memory"] * 3
    assert not result.delta.any()
    answer = Steered(one.pair, stable(x="random")).decode(inputs, result, **greedy())
    assert torch.equal(answer, one.policy.generate(**inputs, **greedy()))
