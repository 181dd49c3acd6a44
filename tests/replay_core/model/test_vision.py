"""Visual features against the model's own, and inputs of which something was lost."""

from typing import Any

import pytest
import torch

from replay_core import Steered, UsageError
from replay_core.model.inputs import split_arguments
from replay_core.model.vision import (
    check_complete,
    placeholder_masks,
    visual_features,
    without_pixels,
)
from tests.replay_core.helpers import Loaded
from tests.support import oracle


@pytest.mark.parametrize(
    ("batch", "lost"), [("clip", "second_per_grid_ts"), ("one_image", "mm_token_type_ids")]
)
def test_what_the_processor_gave_must_arrive_whole(load: Any, batch: str, lost: str) -> None:
    loaded = load("qwen2_5_vl")
    inputs = dict(loaded.batch(batch))
    check_complete(loaded.policy, inputs)
    with torch.no_grad():
        whole = loaded.policy(**inputs).logits
    del inputs[lost]
    with torch.no_grad():
        assert not torch.allclose(loaded.policy(**inputs).logits, whole, atol=1e-2)
    for read in (visual_features, check_complete):
        with pytest.raises(UsageError, match=f"came without {lost}, without which Qwen2_5_VL"):
            read(loaded.policy, inputs)
    with pytest.raises(UsageError, match=lost):
        Steered(loaded.pair).generate(**inputs, max_new_tokens=1)
    with pytest.raises(UsageError, match=lost):
        split_arguments(loaded.pair.policy, inputs)


def test_qwen2_vl_needs_no_seconds(load: Any) -> None:
    loaded = load("qwen2_vl")
    assert "second_per_grid_ts" not in loaded.batch("clip")
    check_complete(loaded.policy, loaded.batch("clip"))


def test_placeholders_stand_where_the_token_types_say(loaded: Loaded) -> None:
    inputs = loaded.batch("video")
    masks = placeholder_masks(loaded.policy, inputs["input_ids"])
    types = inputs["mm_token_type_ids"]
    assert torch.equal(masks["image"], types == 1)
    assert torch.equal(masks["video"], types == 2)
    assert masks["image"].any()
    assert masks["video"].any()


@pytest.mark.parametrize("name", ["one_image", "two_images", "video"])
def test_features_are_what_the_decoder_would_see(either: Loaded, name: str) -> None:
    inputs = either.batch(name)
    features = visual_features(either.policy, inputs)
    assert torch.equal(features.flat, oracle.oracle_features(either.policy, inputs))


@pytest.mark.parametrize("side", ["left", "right"])
def test_features_of_a_batch_stand_sample_by_sample(loaded: Loaded, side: Any) -> None:
    features = visual_features(loaded.policy, loaded.batch("mixed", side))
    singles = loaded.singles("mixed")
    alone = [oracle.oracle_features(loaded.policy, singles[row]) for row in (0, 2)]
    torch.testing.assert_close(features.flat, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_without_pixels_there_are_no_features(loaded: Loaded) -> None:
    assert visual_features(loaded.policy, loaded.singles("mixed")[1]) is None


def test_placeholders_without_features_are_an_error(loaded: Loaded) -> None:
    inputs = dict(loaded.batch("one_image"))
    ids = inputs["input_ids"].clone()
    ids[0, int((ids == loaded.policy.config.image_token_id).nonzero()[0, 1])] = 5
    with pytest.raises(ValueError, match="hold 14 image tokens, but the vision tower returned 15"):
        visual_features(loaded.policy, {**inputs, "input_ids": ids})


@pytest.mark.parametrize("name", ["two_images", "video"])
def test_edited_features_reach_the_decoder_in_place(loaded: Loaded, name: str) -> None:
    inputs = loaded.batch(name)
    features = visual_features(loaded.policy, inputs)
    delta = torch.randn(features.flat.shape, generator=torch.Generator().manual_seed(0))
    text = without_pixels(loaded.policy, inputs)
    with torch.no_grad():
        logits = loaded.policy(**text, mm_encoder_outputs=features.plus(delta)).logits
    assert torch.equal(logits, oracle.oracle_logits(loaded.policy, inputs, delta))


def test_edited_features_are_rounded_once_to_the_models_dtype(one16: Loaded) -> None:
    features = visual_features(one16.policy, one16.batch("one_image"))
    delta = 1e-2 * torch.randn(features.flat.shape, generator=torch.Generator().manual_seed(0))
    edited = torch.cat(tuple(features.plus(delta)["image"].pooler_output))
    assert torch.equal(edited, (features.flat.float() + delta).bfloat16())
    twice = features.flat + delta.bfloat16()
    assert not torch.equal(edited, twice)


def test_every_edit_is_a_fresh_object(one: Loaded) -> None:
    features = visual_features(one.policy, one.batch("two_images"))
    kept = features.flat.clone()
    first, second = (features.plus(torch.ones_like(features.flat)) for _ in range(2))
    assert first["image"] is not second["image"] is not features.outputs["image"]
    shapes = [part.shape for part in features.outputs["image"].pooler_output]
    first["image"].pooler_output = None
    assert [part.shape for part in second["image"].pooler_output] == shapes
    assert [part.shape for part in features.outputs["image"].pooler_output] == shapes
    assert torch.equal(features.flat, kept)
    assert torch.equal(torch.cat(tuple(features.outputs["image"].pooler_output)), kept)


def test_pixels_are_left_out_and_the_grid_stays(one: Loaded) -> None:
    inputs = one.batch("video")
    kept = without_pixels(one.policy, {**inputs, "unknown": torch.zeros(1)})
    assert kept.keys() == inputs.keys() - {"pixel_values", "pixel_values_videos"}
    assert "image_grid_thw" in kept


def test_a_tensor_of_features_keeps_its_shape(one: Loaded) -> None:
    # Some families return one tensor for all images, with leading axes of its own.
    features = visual_features(one.policy, one.batch("one_image"))
    output = features.outputs["image"]
    output.pooler_output = features.flat.reshape(3, 5, 64)
    again = features.with_features(features.flat + 1)["image"].pooler_output
    assert torch.equal(again, features.flat.reshape(3, 5, 64) + 1)
