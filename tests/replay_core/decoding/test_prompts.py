"""What vLLM is handed: prompts with one placeholder a picture, and whose features are whose."""

import pytest
import torch

from replay_core import UsageError
from replay_core.decoding.prompts import prompts_of
from replay_core.model.vision import visual_features
from tests.support import tiny


def prompts(loaded, inputs, moved: float = 0.0):
    features = visual_features(loaded.policy, inputs)
    flat = features.flat + moved
    return prompts_of(loaded.policy, inputs, features, flat), features


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_of_a_batch_is_what_it_is_alone(load, family, side):
    loaded = load(family)
    batch, _ = prompts(loaded, loaded.batch("mixed", side), moved=0.5)
    for row, inputs in zip(batch, loaded.singles("mixed"), strict=True):
        if "pixel_values" not in inputs:
            assert row.seen == {}
            assert list(row.ids) == inputs["input_ids"][0].tolist()
            continue
        (alone,), _ = prompts(loaded, inputs, moved=0.5)
        assert row.ids == alone.ids
        torch.testing.assert_close(row.seen["image"].embeds, alone.seen["image"].embeds)
        assert torch.equal(row.seen["image"].grid, inputs["image_grid_thw"])


def test_one_placeholder_stands_for_each_picture(load):
    loaded = load("qwen2_5_vl")
    inputs = loaded.batch("two_images")
    ((one,), features) = prompts(loaded, inputs)
    placeholder = loaded.policy.config.image_token_id
    assert one.ids.count(placeholder) == 2
    assert len(one.seen["image"].embeds) == len(features.flat)
    kept = [token for token in inputs["input_ids"][0].tolist() if token != placeholder]
    assert [token for token in one.ids if token != placeholder] == kept


def test_the_features_are_those_that_x_was_added_to(load):
    loaded = load("qwen2_5_vl")
    inputs = loaded.batch("one_image")
    (plain,), features = prompts(loaded, inputs)
    (moved,), _ = prompts(loaded, inputs, moved=0.25)
    assert torch.equal(plain.seen["image"].embeds, features.flat)
    assert torch.equal(moved.seen["image"].embeds, features.flat + 0.25)


def test_deepstack_features_stand_beside_the_features_untouched(load):
    loaded = load("qwen3_vl")
    (one,), features = prompts(loaded, loaded.batch("two_images"), moved=0.25)
    width, levels = features.flat.shape[1], features.outputs["image"].deepstack_features
    embeds = one.seen["image"].embeds
    assert embeds.shape[1] == (1 + len(levels)) * width
    assert torch.equal(embeds[:, :width], features.flat + 0.25)
    deep = [torch.cat(list(level)) for level in levels]
    assert torch.equal(embeds[:, width:], torch.cat(deep, 1))


def test_a_clip_comes_with_the_seconds_of_its_steps(load):
    loaded = load("qwen2_5_vl")
    inputs = loaded.batch("mixed_video")
    rows, _ = prompts(loaded, inputs)
    assert [set(row.seen) for row in rows] == [{"image"}, {"image", "video"}, set(), {"video"}]
    clips = [row.seen["video"] for row in rows if "video" in row.seen]
    assert torch.equal(torch.cat([c.seconds for c in clips]), torch.tensor([0.5, 0.5]))
    assert torch.equal(torch.cat([c.grid for c in clips]), inputs["video_grid_thw"])


def test_clips_of_qwen3_vl_are_refused(load):
    loaded = load("qwen3_vl")
    with pytest.raises(UsageError, match=r"clips of Qwen3-VL .* take decode=transformers"):
        prompts(loaded, loaded.batch("clip"))


def test_text_alone_is_its_ids(load):
    loaded = load("qwen2_5_vl")
    inputs = tiny.make_inputs(loaded.processor, images=[[]], questions=["How many?"])
    (one,) = prompts_of(loaded.policy, inputs, None, None)
    assert list(one.ids) == inputs["input_ids"][0].tolist()
    assert one.seen == {}
