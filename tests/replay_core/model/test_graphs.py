"""Work that is recorded once and replayed; a recorder stands in for a GPU's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from replay_core import descent, memory
from replay_core.model.graphs import Replayed, Work
from tests.replay_core.helpers import Loaded, run, stable


class Recorder:
    """Records as a CUDA graph does: results stand where they are, and replays overwrite them."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Work) -> Work:
        self.recorded += 1
        found = work()

        def replay() -> tuple[Tensor, ...]:
            self.replayed += 1
            for kept, value in zip(found, work(), strict=True):
                kept.copy_(value)
            return found

        return replay


def test_work_is_run_recorded_and_replayed() -> None:
    recorder, value = Recorder(), torch.zeros(1)
    replayed = Replayed(lambda: (value + 1,), recorder)
    assert [float(replayed()[0]), recorder.recorded] == [1, 0]
    value += 1
    assert [float(replayed()[0]), recorder.recorded, recorder.replayed] == [2, 1, 1]
    value += 1
    assert [float(replayed()[0]), recorder.recorded, recorder.replayed] == [3, 1, 2]


def test_work_that_cannot_be_recorded_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(work: Work) -> Work:
        tries.append(work)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    replayed = Replayed(lambda: (torch.ones(1),), refuse)
    assert [float(replayed()[0]) for _ in range(4)] == [1, 1, 1, 1]
    assert len(tries) == 1


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_replayed_loop_ends_where_the_other_does(
    one: Loaded, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    inputs = one.batch("mixed")
    settings = stable(steps=5, keep=keep)
    plain = run(one, inputs, settings)
    recorder = Recorder()
    monkeypatch.setattr(memory, "_worth_recording", lambda problem: True)
    monkeypatch.setattr(descent, "Replayed", lambda work: Replayed(work, recorder))
    replayed = run(one, inputs, settings)
    assert (recorder.recorded, recorder.replayed) == (1, 4)
    assert replayed.memory is not None
    assert replayed.memory.graph
    assert torch.equal(replayed.delta, plain.delta)
    assert [s.losses for s in replayed.samples] == [s.losses for s in plain.samples]


@pytest.mark.parametrize("setting", [{"cuda_graphs": "off"}, {}])
def test_nothing_is_recorded_on_a_cpu(one: Loaded, setting: dict[str, Any]) -> None:
    result = run(one, one.batch("one_image"), stable(steps=3, **setting))
    assert result.memory is not None
    assert not result.memory.graph
