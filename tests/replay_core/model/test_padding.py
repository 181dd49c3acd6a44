from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_core.model.padding import left_padded
from tests.replay_core.helpers import Loaded

SIDES = ("left", "right")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2), st.booleans())
def test_left_padding_keeps_the_tokens_and_their_order(
    lengths: list[int], more: int, boolean: bool
) -> None:
    width = max(lengths) + more
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        start = (row * 2) % (width - length + 1)  # padded on the left, the right or both
        ids[row, start : start + length] = torch.arange(1, length + 1) + 10 * row
        mask[row, start : start + length] = 1
    pixels = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": mask.bool() if boolean else mask, "p": pixels}
    before = ids.clone()
    moved = left_padded(inputs)
    for row, length in enumerate(lengths):
        assert moved["attention_mask"][row].tolist() == [0] * (width - length) + [1] * length
        tail = moved["input_ids"][row, width - length :].tolist()
        assert tail == [10 * row + n for n in range(1, length + 1)]
    assert moved["p"] is pixels
    assert torch.equal(ids, before)
    again = left_padded(moved)
    assert all(torch.equal(again[name], value) for name, value in moved.items())


@pytest.mark.parametrize("side", SIDES)
def test_a_batch_of_either_side_is_left_padded(one: Loaded, side: Any) -> None:
    left, moved = one.batch("mixed", "left"), left_padded(one.batch("mixed", side))
    assert moved.keys() == left.keys()
    for name, value in left.items():
        assert torch.equal(moved[name], value)


@pytest.mark.parametrize(
    "mask", [[[1, 0, 1, 0]], [[1, 1, 0, 0], [1, 0, 1, 1]], [[1, 0, 1, 1]], [[0, 1, 0, 1]]]
)
def test_a_mask_with_holes_is_refused(mask: list[list[int]]) -> None:
    inputs = {"input_ids": torch.ones(len(mask), 4, dtype=torch.long)}
    with pytest.raises(ValueError, match="the attention mask has holes"):
        left_padded({**inputs, "attention_mask": torch.tensor(mask)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mask_in_half_precision_counts_every_token(dtype: torch.dtype) -> None:
    # 2,997 is neither in bfloat16 nor in float16.
    mask = torch.ones(2, 2997, dtype=dtype)
    mask[0, :501] = 0
    ids = torch.arange(2997).expand(2, -1)
    assert torch.equal(left_padded({"input_ids": ids, "attention_mask": mask})["input_ids"], ids)
