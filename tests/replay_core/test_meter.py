"""Seconds between laps, and memory where there is an accelerator."""

import pytest
import torch

from replay_core import meter
from replay_core.meter import Meter


def test_a_lap_begins_where_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 16.5])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    measured = Meter(torch.device("cpu"))
    assert [measured.lap(), measured.lap()] == [2.5, 4.0]
    assert measured.peak_mb is None


def test_the_peak_is_counted_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", told.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    device = torch.device("cuda")
    measured = Meter(device)
    assert told == [device]
    assert measured.peak_mb == 3.0
