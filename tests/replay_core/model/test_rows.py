"""A batch taken apart: each row holds the pixels that its prompt alone would have had."""

from typing import Any

import pytest
import torch

from replay_core.model.rows import rows_of
from tests.replay_core.helpers import Loaded

BATCHES = ("mixed", "two_images", "video")


@pytest.mark.parametrize("name", BATCHES)
def test_a_row_is_its_prompt_alone(loaded: Loaded, name: str) -> None:
    """Pixels and grids are bitwise those of the prompt processed alone; tokens are padded."""
    rows = rows_of(loaded.policy, loaded.batch(name))
    alone = loaded.singles(name)
    assert rows is not None
    assert len(rows) == len(alone)
    for row, single in zip(rows, alone, strict=True):
        kept = row["attention_mask"].bool()
        assert torch.equal(row["input_ids"][kept], single["input_ids"][0])
        visual = {key for key in single if "pixel" in key or "grid" in key}
        assert visual == {key for key in row if "pixel" in key or "grid" in key}
        for key in visual:
            assert torch.equal(row[key], torch.as_tensor(single[key])), key


def test_a_batch_whose_pixels_cannot_be_told_apart_is_left_whole(one: Loaded) -> None:
    inputs: dict[str, Any] = dict(one.batch("two_images"))
    without = {key: value for key, value in inputs.items() if key != "image_grid_thw"}
    assert rows_of(one.policy, without) is None
    assert rows_of(one.policy, {**inputs, "tiles": torch.zeros(7, 3)}) is None
    grid = inputs["image_grid_thw"].clone()
    grid[0, 1] *= 2  # the first picture would reach into the second prompt
    assert rows_of(one.policy, {**inputs, "image_grid_thw": grid}) is None
