"""Processes of an engine end with the process that started it, however that one ends."""

import subprocess
import sys
from collections.abc import Collection

import psutil  # type: ignore[import-untyped]

# Runs by itself: its input ends when whoever started it is gone, also where that was killed.
_WATCH = """
import sys, psutil
sys.stdin.read()
for known in sys.argv[1:]:
    number, born = known.split("@")
    try:
        process = psutil.Process(int(number))
        if process.create_time() == float(born):
            process.kill()
    except psutil.NoSuchProcess:
        pass
"""


def children() -> set[psutil.Process]:
    """Return all processes that this one and its children have started, but Python's own helper."""
    found = psutil.Process().children(recursive=True)
    return {one for one in found if not _is_helper(one)}


def end_with_this_process(processes: Collection[psutil.Process]) -> "subprocess.Popen[bytes]":
    """Have ``processes`` killed as soon as this one has ended; return what watches over it.

    vLLM's engine goes on where its parent is killed, and keeps the GPU's memory, so that the same
    command started again would find none.
    """
    known = [f"{one.pid}@{one.create_time()!r}" for one in processes]
    return subprocess.Popen(
        [sys.executable, "-c", _WATCH, *known], stdin=subprocess.PIPE, start_new_session=True
    )


def _is_helper(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return True
