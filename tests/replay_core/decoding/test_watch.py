"""What a process has started ends with it, also where that one is killed."""

import signal
import subprocess
import sys

import psutil
import pytest

PARENT = """
import subprocess, sys, time
from replay_core.decoding.watch import children, end_with_this_process
before = children()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
end_with_this_process({one for one in children() - before if one.pid == child.pid})
print(child.pid, other.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_takes_what_is_watched_with_it_and_nothing_else(how):
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child, other = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
    try:
        parent.send_signal(how)
        parent.wait(timeout=20)
        gone, _ = psutil.wait_procs([child], timeout=20)
        assert [one.pid for one in gone] == [child.pid]
        assert other.is_running()
    finally:
        other.kill()
