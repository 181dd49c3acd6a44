"""How long a batch takes, and how much of the accelerator's memory."""

import time

import torch


class Meter:
    """Measures from the moment it is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def lap(self) -> float:
        """Return the seconds since the last lap, or since the beginning."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last

    @property
    def peak_mb(self) -> float | None:
        """The peak of the accelerator's memory in MiB since the beginning; None on the CPU."""
        if self._device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self._device) / 2**20
