"""What a step of the loop makes an accelerator wait for, and how many operations it takes.

An operation whose result's size or value the host must know ends what an accelerator works ahead.
Without one at hand, such operations are counted where they are dispatched.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from replay_core.descent import _LOOK_EVERY
from tests.replay_core.helpers import Loaded, run, stable

WAITING = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::bincount", "aten::masked_select"),
    *("aten::equal", "aten::_unique2", "aten::repeat_interleave.Tensor"),
}


class Operations(TorchDispatchMode):
    """Counts the operations inside, and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.waiting = 0, Counter[str]()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name
        by_mask = "index" in name and any(map(_masks, args))
        self.all += 1
        self.waiting[name] += name in WAITING or by_mask
        return func(*args, **(kwargs or {}))


def _masks(argument: Any) -> bool:
    parts = argument if isinstance(argument, list | tuple) else ()
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


@pytest.mark.parametrize("top_k", [50, "full"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
@pytest.mark.parametrize("moves", [{}, {"optimizer": "lbfgs", "tolerance": 1e-6}], ids=str)
def test_a_step_waits_for_nothing(
    one: Loaded, top_k: Any, boundary: str, moves: dict[str, Any]
) -> None:
    counted = []
    for steps in (_LOOK_EVERY + 1, 2 * _LOOK_EVERY):  # none of the steps between looks
        with Operations() as operations:
            run(one, one.batch("two_images"), stable(boundary, steps=steps, top_k=top_k, **moves))
        counted.append(operations)
    fewer, more = counted
    assert more.all > fewer.all
    assert more.waiting == fewer.waiting


def test_the_count_sees_what_waits() -> None:
    values = torch.arange(4.0)
    with Operations() as operations:
        bool(values.any())
        values[values > 1]
        values[values > 1] = 0
        values[torch.tensor([0, 1])]
    assert sum(operations.waiting.values()) == 3
