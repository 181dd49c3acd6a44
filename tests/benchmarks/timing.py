"""Seconds, peak memory, and where a number was measured."""

import csv
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measured:
    """What a call returned, its wall-clock seconds and, on an accelerator, its peak in MiB above
    what stood in memory before."""

    value: Any
    seconds: float
    peak_mb: float | None = None


def timed(call: Callable[[], Any], device: str) -> Measured:
    """Return a call's result, seconds and peak."""
    if device == "cpu":
        started = time.perf_counter()
        return Measured(call(), time.perf_counter() - started)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    value = call()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return Measured(value, seconds, (torch.cuda.max_memory_allocated() - before) / 2**20)


def allocated_peak(call: Callable[[], Any]) -> float:
    """Return the peak, in MiB, of what a call on the CPU holds allocated above its beginning."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = [event for event in seen.profiler.kineto_results.events() if event.nbytes()]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def where(device: str, dtype: torch.dtype) -> dict[str, str]:
    """Return what every row says of the place it was measured in."""
    name = torch.cuda.get_device_name() if device != "cpu" else _processor()
    return {
        "commit": _commit(),
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same columns as CSV, in the place of what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"
