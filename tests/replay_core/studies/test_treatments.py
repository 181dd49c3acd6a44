"""What the control arms do to pairs, pictures, x and answers."""

import pytest
import torch

from replay_core import Steered, UsageError
from replay_core.studies.treatments import (
    affordable_votes,
    final_answer,
    joined_pictures,
    majority,
    random_like,
    self_pair,
    with_pictures_of,
)
from tests.replay_core.helpers import outcomes, run, stable
from tests.support import tiny


def test_the_policy_paired_with_itself_has_nothing_to_repair(loaded):
    result = run(self_pair(loaded.pair), loaded.batch("one_image"), stable())
    assert outcomes(result) == ["no_drift"]
    assert not result.delta.any()


def test_random_x_has_the_norms_of_x_and_another_direction(loaded):
    result = run(loaded, loaded.batch("mixed"), stable())
    other = random_like(result, torch.Generator().manual_seed(0))
    assert torch.allclose(other.delta.norm(dim=-1), result.delta.norm(dim=-1), rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(other.delta, result.delta, dim=-1)
    assert cosine.abs().mean() < 0.5
    assert other.samples == result.samples
    steered = Steered(loaded.pair, stable())
    ids = torch.tensor([[5, 6, 7]] * 3)
    before, after = (steered.score(loaded.batch("mixed"), r, ids) for r in (result, other))
    assert not torch.allclose(before, after)


def test_random_x_in_half_precision_has_the_norms_of_x_too(one16):
    result = run(one16, one16.batch("mixed"), stable("reference", steps=2))
    other = random_like(result, torch.Generator().manual_seed(0)).delta
    assert other.dtype == torch.bfloat16
    norms, wanted = other.double().norm(dim=-1), result.delta.double().norm(dim=-1)
    torch.testing.assert_close(norms, wanted, rtol=1e-3, atol=0)


def test_pictures_of_the_same_grid_are_lent_as_they_are(loaded):
    ours = tiny.make_inputs(
        loaded.processor, images=[[p] for p in tiny.pictures(0)[:2]], questions=["One?", "Two?"]
    )
    theirs = tiny.make_inputs(
        loaded.processor,
        images=[[p] for p in tiny.pictures(9)[:2]],
        questions=["A longer question?", "Four?"],
    )
    swapped = with_pictures_of(ours, theirs)
    assert torch.equal(swapped["pixel_values"], theirs["pixel_values"])
    assert torch.equal(swapped["input_ids"], ours["input_ids"])
    steered = Steered(loaded.pair, stable())
    lent = steered.targets(swapped)
    own = steered.targets(ours)
    assert lent.prompt == own.prompt
    assert not torch.allclose(lent.entropies[0], own.entropies[0])
    assert steered.optimise(ours, targets=lent).delta is not None


def test_pictures_of_another_grid_are_resized_by_tokens(loaded):
    tall, wide, _ = tiny.pictures(0)
    ours = tiny.make_inputs(loaded.processor, images=[[tall]], questions=["One?"])
    theirs = tiny.make_inputs(loaded.processor, images=[[wide]], questions=["One?"])
    swapped = with_pictures_of(ours, theirs)
    assert swapped["pixel_values"].shape == ours["pixel_values"].shape
    # Donor 2 x 4 tokens on 5 x 3: rows 0 0 1 1 1, columns 0 2 3; a token is 4 patches.
    donor = theirs["pixel_values"].reshape(2, 4, 4, -1)
    moved = swapped["pixel_values"].reshape(5, 3, 4, -1)
    for row, source in enumerate((0, 0, 1, 1, 1)):
        for column, other in enumerate((0, 2, 3)):
            assert torch.equal(moved[row, column], donor[source, other])


def test_single_prompts_are_joined_in_order(loaded):
    singles = [
        tiny.make_inputs(loaded.processor, images=[[p]], questions=["?"])
        for p in tiny.pictures(0)[:2]
    ]
    joined = joined_pictures(singles)
    assert torch.equal(joined["pixel_values"], torch.cat([s["pixel_values"] for s in singles]))
    assert len(joined["image_grid_thw"]) == 2


def test_a_batch_without_pictures_cannot_be_shuffled(loaded):
    text = loaded.singles("mixed")[1]
    with pytest.raises(UsageError, match="pictures in every prompt"):
        with_pictures_of(text, loaded.singles("one_image")[0])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>3</think><answer> Two  words </answer>", "two words"),
        ("so \\boxed{3} or rather \\boxed{4}", "4"),
        ("Because.\nThe answer is B\n\n", "the answer is b"),
        ("", ""),
    ],
)
def test_a_vote_counts_the_final_answer(text, answer):
    assert final_answer(text) == answer


def test_the_majority_wins_and_the_first_in_a_tie():
    texts = [f"<think>{i}</think><answer>{a}</answer>" for i, a in enumerate("abbca")]
    assert majority(texts) == texts[0]
    assert majority([*texts, texts[1]]) == texts[1]


def test_votes_are_what_the_seconds_buy():
    assert affordable_votes(1.2, 0.1) == 12
    assert affordable_votes(0.01, 0.1) == 1
    assert affordable_votes(100, 0.1) == 64
