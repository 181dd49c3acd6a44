"""What arms do to pairs, pictures and answers."""

import pytest
import torch

from replay_core import Steered, UsageError
from replay_core.studies.treatments import (
    final_answer,
    joined_pictures,
    majority,
    self_pair,
    with_pictures_of,
)
from tests.replay_core.helpers import outcomes, run, stable
from tests.support import tiny


def test_the_policy_paired_with_itself_has_nothing_to_repair(loaded):
    result = run(self_pair(loaded.pair), loaded.batch("one_image"), stable())
    assert outcomes(result) == ["no_drift"]
    assert not result.delta.any()


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
