"""Which image a visual token belongs to."""

import torch

from replay_core.candidates import _images


def test_an_image_is_an_unbroken_run_of_one_row() -> None:
    row = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    column = torch.tensor([2, 3, 7, 8, 9, 12, 13])
    assert _images(row, column).tolist() == [0, 0, 1, 2, 2, 3, 3]
