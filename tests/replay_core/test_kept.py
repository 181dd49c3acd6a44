"""x of pictures that an earlier prompt had too: kept as it is, while that of new ones is found."""

import pytest
import torch

from replay_core import Steered, UsageError
from replay_core.outcome import Outcome
from tests.replay_core.helpers import stable


def parts(result) -> list[torch.Tensor]:
    return [result.of(number) for number in range(len(result.samples))]


def test_x_of_a_sample_is_its_rows(one):
    inputs = one.batch("mixed")
    result = Steered(one.pair, stable()).optimise(inputs)
    found = [x for x in parts(result) if x is not None]
    assert torch.equal(torch.cat(found), result.delta)
    counts = [s.visual_tokens for s in result.samples if s.outcome is Outcome.APPLIED]
    assert [len(x) for x in found] == counts
    none = Steered(one.pair, stable(method="none")).optimise(inputs)
    assert none.of(0) is None


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_kept_tokens_do_not_move_and_the_others_do(one, boundary):
    inputs = one.batch("two_images")
    steered = Steered(one.pair, stable(boundary))
    own = parts(steered.optimise(inputs))
    some = [0.5 * x[:3] for x in own]
    result = steered.optimise(inputs, kept=some)
    for before, free, after, sample in zip(some, own, parts(result), result.samples, strict=True):
        assert torch.equal(after[:3], before)
        assert after[3:].norm(dim=-1).min() > 0
        assert not torch.equal(after[3:], free[3:])
        assert sample.loss_after < sample.loss_before
        assert sample.steps == 25


def test_with_everything_kept_nothing_is_found(one):
    inputs = one.batch("two_images")
    steered = Steered(one.pair, stable())
    own = parts(steered.optimise(inputs))
    result = steered.optimise(inputs, kept=own)
    for before, after, sample in zip(own, parts(result), result.samples, strict=True):
        assert torch.equal(after, before)
        assert (sample.steps, sample.outcome) == (0, Outcome.APPLIED)
        assert sample.loss_before == sample.loss_after


def test_nothing_kept_is_the_plain_descent_bitwise(one):
    inputs = one.batch("mixed")
    steered = Steered(one.pair, stable())
    plain = steered.optimise(inputs)
    none = steered.optimise(inputs, kept=[None] * len(plain.samples))
    assert torch.equal(plain.delta, none.delta)


def test_rows_keep_their_own(one):
    inputs = one.batch("mixed")
    steered = Steered(one.pair, stable())
    own = parts(steered.optimise(inputs))
    row = max(number for number, x in enumerate(own) if x is not None)
    assert any(x is not None for x in own[:row])
    kept = [None if number != row else x[:2] * 3 for number, x in enumerate(own)]
    after = parts(steered.optimise(inputs, kept=kept))
    assert torch.equal(after[row][:2], kept[row])
    for number, x in enumerate(own):
        if number != row and x is not None:
            assert torch.allclose(after[number], x, rtol=1e-4, atol=1e-6)


def test_a_sample_that_goes_wrong_is_left_with_what_was_kept(one):
    inputs = one.batch("two_images")
    steered = Steered(one.pair, stable(step_size=1e9))
    own = parts(Steered(one.pair, stable()).optimise(inputs))
    result = steered.optimise(inputs, kept=[x[:3] for x in own])
    assert {sample.outcome for sample in result.samples} <= {Outcome.DIVERGED, Outcome.NON_FINITE}
    for number, x in enumerate(own):
        mine = torch.nonzero(result.features.positions)[:, 0] == number
        assert torch.equal(result.delta[mine][:3], x[:3])
        assert not result.delta[mine][3:].any()


def test_noise_in_place_of_x_is_kept_too(one):
    inputs = one.batch("two_images")
    steered = Steered(one.pair, stable(x="random", steps=3))
    seeds = list(range(len(inputs["input_ids"])))
    first = parts(steered.optimise(inputs, seeds=seeds))
    other = [seed + 100 for seed in seeds]
    again = parts(steered.optimise(inputs, seeds=other, kept=[x[:3] for x in first]))
    for before, after in zip(first, again, strict=True):
        assert torch.equal(after[:3], before[:3])
        assert not torch.allclose(after[3:], before[3:])


def test_more_than_a_sample_has_is_refused(one):
    inputs = one.batch("one_image")
    steered = Steered(one.pair, stable())
    x = parts(steered.optimise(inputs))
    longer = [torch.cat([one_x, one_x]) for one_x in x]
    with pytest.raises(UsageError, match=r"fewer than the \d+ whose x is kept"):
        steered.optimise(inputs, kept=longer)
