"""What the loop keeps in memory, and what is done where that would not fit."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from replay_core import Outcome, Steered, memory
from replay_core.answer import answer
from replay_core.model.checkpointing import checkpointed
from tests.replay_core.helpers import Loaded, counted, run, stable

Counted = Callable[..., AbstractContextManager[Any]]


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
@pytest.mark.parametrize("name", ["one_image", "two_images", "mixed"])
def test_layers_that_run_again_change_no_digit(loaded: Loaded, name: str, boundary: str) -> None:
    inputs = loaded.batch(name)
    kept = run(loaded, inputs, stable(boundary, steps=3, checkpointing="off"))
    again = run(loaded, inputs, stable(boundary, steps=3, checkpointing="on"))
    assert again.memory is not None
    assert again.memory.recompute
    assert kept.memory is not None
    assert not kept.memory.recompute
    assert torch.equal(kept.delta, again.delta)
    assert [sample.losses for sample in kept.samples] == [sample.losses for sample in again.samples]
    assert kept.delta.any()


def test_each_layer_keeps_its_input_only(one: Loaded) -> None:
    inputs = one.batch("one_image")
    most = {}
    for asked in ("off", "on"):
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        steered = Steered(one.pair, stable(steps=1, checkpointing=asked, layers=(3,)))
        held = {p.untyped_storage().data_ptr() for p in one.policy.parameters()}
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            steered.optimise(inputs)
        most[asked] = sum(size for storage, size in kept.items() if storage not in held)
    assert most["on"] < 0.5 * most["off"]


def test_the_estimate_is_what_a_step_keeps(one: Loaded) -> None:
    """Of a loop of one step, against all that autograd is seen to keep in it."""
    inputs = one.batch("two_images")
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    steered = Steered(one.pair, stable(steps=1, checkpointing="off", threshold=1.0))
    targets = steered.targets(inputs)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        steered.optimise(inputs, targets=targets)
    held = {p.untyped_storage().data_ptr() for p in one.policy.parameters()}
    seen = sum(size for storage, size in kept.items() if storage not in held) / 2**20
    plan = run(one, inputs, stable(steps=1, threshold=1.0)).memory
    assert plan is not None
    assert plan.needed_mb is not None
    assert plan.needed_mb == pytest.approx(seen, rel=0.3)


def test_what_does_not_fit_runs_again(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = one.batch("one_image")
    plain = run(one, inputs, stable(steps=2))
    assert plain.memory is not None
    assert not plain.memory.recompute
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    tight = run(one, inputs, stable(steps=2))
    assert tight.memory is not None
    assert tight.memory.recompute
    assert tight.memory.needed_mb == plain.memory.needed_mb
    assert tight.memory.free_mb == 1000 / 2**20
    assert torch.equal(tight.delta, plain.delta)
    unasked = run(one, inputs, stable(steps=2, checkpointing="off"))
    assert unasked.memory is not None
    assert not unasked.memory.recompute


FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
FULL_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate")


def out_of_memory(times: int, error: Exception = FULL) -> Callable[..., Any]:
    """Return a ``descend`` that runs out of memory the first ``times``."""
    left, real = [times], memory.descend

    def descend(problem: Any) -> Any:
        if left[0] > 0 and not problem.recompute:
            left[0] -= 1
            raise error
        return real(problem)

    return descend


@pytest.mark.parametrize("error", [FULL, FULL_CPU], ids=["accelerator", "CPU"])
def test_out_of_memory_is_tried_again(
    one: Loaded, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    inputs = one.batch("one_image")
    plain = run(one, inputs, stable(steps=2))
    monkeypatch.setattr(memory, "descend", out_of_memory(1, error))
    rescued = run(one, inputs, stable(steps=2))
    assert rescued.samples[0].outcome is Outcome.APPLIED
    assert rescued.memory is not None
    assert rescued.memory.recompute
    assert torch.equal(rescued.delta, plain.delta)
    monkeypatch.setattr(memory, "descend", out_of_memory(1))
    refused = run(one, inputs, stable(steps=2, checkpointing="off"))
    assert refused.samples[0].outcome is Outcome.OUT_OF_MEMORY


def test_records_tell_how_the_loop_ran(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = one.batch("one_image")
    steered = Steered(one.pair, stable(steps=1))
    record = answer(steered, inputs, {"max_new_tokens": 2}).records[0]
    assert record.estimated_memory_mb is not None
    assert record.estimated_memory_mb > 0
    assert not record.checkpointing
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    assert answer(steered, inputs, {"max_new_tokens": 2}).records[0].checkpointing


def test_checkpointing_changes_no_fingerprint() -> None:
    assert stable(checkpointing="on").fingerprint() == stable().fingerprint()
    assert stable(steps=7).fingerprint() != stable().fingerprint()


def test_layers_are_left_as_they_were(one: Loaded) -> None:
    layers = one.pair.policy.layers
    own = layers[1].forward
    layers[1].forward = own  # as accelerate's dispatch does
    try:
        with checkpointed(layers):
            assert "forward" in vars(layers[0])
        assert "forward" not in vars(layers[0])
        assert vars(layers[1])["forward"] is own
    finally:
        del layers[1].forward


def test_hooks_see_an_activation_once(one: Loaded) -> None:
    with counted(layer=one.pair.policy.layers[1]) as calls:
        run(one, one.batch("one_image"), stable(steps=2, checkpointing="on"))
    plain = len(calls["layer"])
    with counted(layer=one.pair.policy.layers[1]) as calls:
        run(one, one.batch("one_image"), stable(steps=2, checkpointing="off"))
    assert len(calls["layer"]) == plain
