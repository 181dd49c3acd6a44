"""Faults at every stage: a named outcome for the sample, and every other answer as without it."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from replay_core import Outcome, ReplayResult, Steered, UsageError
from replay_core.answer import Answers, answer
from replay_core.enduring import MANY, Enduring
from replay_core.faults import Fault, ends_the_run, out_of_memory, told
from replay_core.model.call import DecoderCall
from replay_core.model.vision import Inputs
from replay_core.record import lasting
from tests.replay_core.helpers import Loaded, greedy, stable

NO_ROOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nA table")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
)
BROKEN = ValueError("something else\nand more")
WINDOWS = RuntimeError("not enough memory: you tried to allocate 99 bytes.")
FAULTS = pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NO_ROOM, "out_of_memory"),
        (CPU, "out_of_memory"),
        (WINDOWS, "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (BROKEN, "failed"),
    ],
    ids=["accelerator", "CPU", "not enough memory", "MemoryError", "exception"],
)


@pytest.fixture
def both(one: Loaded) -> tuple[Loaded, dict[str, Any]]:
    return one, dict(one.batch("mixed"))


def endured(
    steered: Steered,
    inputs: Inputs,
    how: dict[str, Any] | None = None,
    now: list[int] | None = None,
) -> Answers:
    """Return the answers; ``now`` are the places whose x is being found."""

    def optimise(part: Inputs, places: Sequence[int]) -> ReplayResult:
        if now is not None:
            now[:] = places
        return steered.optimise(part, seeds=[7 + place for place in places])

    seeds = [7 + place for place in range(len(inputs["input_ids"]))]
    return Enduring(steered).answer(inputs, how or greedy(), seeds=seeds, optimise=optimise)


def texts(answers: Answers, end: int) -> list[list[int]]:
    """Return each answer up to its end, whatever it is filled up with."""
    return [row[: row.index(end)] if end in row else row for row in answers.new.tolist()]


def failing(
    patch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, when: Callable[..., bool]
) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)  # whose signature is asked for
    def raising(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            raise error
        return original(*args, **kwargs)

    patch.setattr(owner, name, raising)


def has(marked: Any) -> Callable[..., bool]:
    """Return whether a call is given the features or tokens of the sample that is to fail."""

    def found(*args: Any, **kwargs: Any) -> bool:
        for value in (*args, *kwargs.values()):
            if not isinstance(value, torch.Tensor) or value.ndim != marked.ndim:
                continue
            if value.shape[1:] == marked.shape[1:] and len(value) >= len(marked):
                windows = value.unfold(0, len(marked), 1).movedim(-1, 1)
                if any(torch.equal(window, marked) for window in windows):
                    return True
        return False

    return found


@pytest.fixture
def last(both: tuple[Loaded, dict[str, Any]]) -> dict[str, Any]:
    """The pixels and the tokens of the batch's last sample, which has a picture."""
    loaded, inputs = both
    single = loaded.singles("mixed")[-1]
    assert single["pixel_values"] is not None
    return {"pixels": single["pixel_values"], "tokens": inputs["input_ids"][-1:]}


STAGES = ("vision", "base", "loop", "decode")


@FAULTS
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_costs_its_own_sample_only(
    both: tuple[Loaded, dict[str, Any]],
    last: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: Exception,
    outcome: str,
) -> None:
    loaded, inputs = both
    steered = Steered(loaded.pair, stable())
    end = loaded.policy.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    whole = endured(steered, inputs)
    plain = answer(Steered(loaded.pair, stable(method="none")), inputs, greedy())
    assert [record.outcome.value for record in whole.records] == [
        *("applied", "no_visual_tokens", "applied")
    ]
    now: list[int] = []
    with monkeypatch.context() as patch:
        if stage == "vision":
            visual = loaded.policy.base_model
            failing(patch, visual, "get_image_features", error, has(last["pixels"]))
        elif stage == "decode":
            failing(patch, loaded.policy, "generate", error, has(last["tokens"]))
        else:
            _fail_in_the_decoder(patch, loaded, error, stage, now)
        seen = endured(steered, inputs, now=now)
    assert [record.outcome.value for record in seen.records] == [
        *("applied", "no_visual_tokens", outcome)
    ]
    assert texts(seen, end)[:2] == texts(whole, end)[:2]
    nobody = stage in ("vision", "decode")  # the plain policy cannot answer either
    assert texts(seen, end)[2] == ([] if nobody else texts(plain, end)[2])
    assert seen.records[2].error == told(error)
    assert not lasting(seen.records[2].model_dump())
    assert all(lasting(record.model_dump()) for record in seen.records[:2])
    assert torch.equal(endured(steered, inputs).ids, whole.ids)  # nothing is left behind


def _fail_in_the_decoder(
    patch: pytest.MonkeyPatch, loaded: Loaded, error: Exception, stage: str, now: list[int]
) -> None:
    """Raise in the base's pass, or at the loop's second step, while x of the last is found."""
    original, passes = DecoderCall.activations, [0]

    def activations(call: DecoderCall, *args: Any, **kwargs: Any) -> Any:
        steps = call.anatomy.model is loaded.policy
        passes[0] = passes[0] + 1 if steps else 0
        if 2 in now and (passes[0] >= 2 if stage == "loop" else not steps):
            raise error
        return original(call, *args, **kwargs)

    patch.setattr(DecoderCall, "activations", activations)


def test_a_batch_that_does_not_fit_is_answered_row_by_row(
    both: tuple[Loaded, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each sample is then steered as ever: nothing is lost but time."""
    loaded, inputs = both
    steered = Steered(loaded.pair, stable())
    whole = endured(steered, inputs)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        original = DecoderCall.activations

        def activations(call: DecoderCall, *args: Any, **kwargs: Any) -> Any:
            if len(call.embeds) > 1:
                raise NO_ROOM
            return original(call, *args, **kwargs)

        patch.setattr(DecoderCall, "activations", activations)
        seen = endured(steered, inputs)
    assert torch.equal(seen.ids, whole.ids)
    assert [r.outcome for r in seen.records] == [r.outcome for r in whole.records]
    assert [r.batch_size for r in seen.records] == [1, 1, 1]
    assert "answered one by one: OutOfMemoryError: CUDA out of memory." in caplog.text


def test_sampled_answers_are_the_same_one_by_one(
    both: tuple[Loaded, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, inputs = both
    steered = Steered(loaded.pair, stable())
    how = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 5, "num_return_sequences": 2}
    whole = endured(steered, inputs, how)
    with monkeypatch.context() as patch:
        failing(patch, loaded.policy, "generate", NO_ROOM, lambda **k: len(k["input_ids"]) > 1)
        seen = endured(steered, inputs, how)
    assert torch.equal(seen.ids, whole.ids)
    assert [r.seed for r in seen.records] == [r.seed for r in whole.records]
    assert len(seen.records) == 6


def test_no_answer_at_all_is_a_row_that_ends_at_once(
    both: tuple[Loaded, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, inputs = both
    for method in ("replay", "none"):
        steered = Steered(loaded.pair, stable(method=method))
        with monkeypatch.context() as patch:
            failing(patch, loaded.policy, "generate", NO_ROOM, lambda **_: True)
            seen = endured(steered, inputs, greedy(num_return_sequences=1))
        assert {record.outcome for record in seen.records} == {Outcome.OUT_OF_MEMORY}
        assert torch.equal(seen.ids[:, : seen.prompt], inputs["input_ids"])
        assert seen.new.shape == (3, 1)
        assert {record.new_tokens for record in seen.records} == {0}


@pytest.mark.parametrize("stage", ["get_image_features", "generate"])
def test_strict_raises_what_went_wrong(
    both: tuple[Loaded, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    loaded, inputs = both
    owner = loaded.policy if stage == "generate" else loaded.policy.base_model
    steered = Steered(loaded.pair, stable(strict=True))
    failing(monkeypatch, owner, stage, NO_ROOM, lambda *_, **__: True)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate"):
        endured(steered, inputs)


def test_many_failures_in_a_row_end_the_run(
    both: tuple[Loaded, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, _ = both
    steered = Steered(loaded.pair, stable())
    single = dict(loaded.singles("mixed")[0])
    enduring = Enduring(steered)

    def ask() -> str:
        def broken(*_: Any) -> ReplayResult:
            raise UsageError("no good")

        made = enduring.answer(single, greedy(), seeds=[1], optimise=broken)
        return str(made.records[0].outcome.value)

    for _ in range(2):
        assert [ask() for _ in range(MANY - 1)] == ["failed"] * (MANY - 1)
        fine = enduring.answer(
            single, greedy(), seeds=[1], optimise=lambda part, _: steered.optimise(part)
        )
        assert fine.records[0].outcome is Outcome.APPLIED
    for _ in range(MANY - 1):
        ask()
    with pytest.raises(UsageError, match="no good"):
        ask()


def test_memory_that_runs_out_often_does_not_end_the_run(
    both: tuple[Loaded, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, _ = both
    enduring, single = Enduring(Steered(loaded.pair, stable())), dict(loaded.singles("mixed")[0])

    def full(*_: Any) -> ReplayResult:
        raise NO_ROOM

    for _ in range(MANY + 2):
        made = enduring.answer(single, greedy(), seeds=[1], optimise=full)
        assert made.records[0].outcome is Outcome.OUT_OF_MEMORY


def test_a_lost_accelerator_ends_the_run(both: tuple[Loaded, dict[str, Any]]) -> None:
    loaded, _ = both
    single = dict(loaded.singles("mixed")[0])
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered")
    full = torch.AcceleratorError("CUDA error: out of memory")
    assert ends_the_run(lost)
    assert not ends_the_run(full)
    assert out_of_memory(full)

    def broken(*_: Any) -> ReplayResult:
        raise lost

    with pytest.raises(torch.AcceleratorError, match="device-side"):
        Enduring(Steered(loaded.pair, stable())).answer(
            single, greedy(), seeds=[1], optimise=broken
        )


def test_the_machines_memory_really_runs_out() -> None:
    """The text that torch gives it, from torch itself."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55, dtype=torch.float32)
    assert Fault.of(raised.value).outcome is Outcome.OUT_OF_MEMORY
    assert Fault.of(RuntimeError("shapes do not match")).outcome is Outcome.FAILED


def test_the_largest_step_steers_no_sample(both: tuple[Loaded, dict[str, Any]]) -> None:
    """1e12 is the most that settings allow; behind the first step x means nothing any more."""
    loaded, inputs = both
    plain = answer(Steered(loaded.pair, stable(method="none")), inputs, greedy())
    for scaling in ("published", "tokens"):
        steered = Steered(loaded.pair, stable(step_size=1e12, step_scaling=scaling))
        made = endured(steered, inputs)
        assert [record.outcome.value for record in made.records] == [
            *("diverged", "no_visual_tokens", "diverged")
        ]
        assert torch.equal(made.ids, plain.ids)
