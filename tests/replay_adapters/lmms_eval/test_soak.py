"""A short soak: the memory of a run does not grow with its samples."""

import csv
import re
import subprocess
import sys


def test_memory_does_not_grow_with_the_samples(tmp_path):
    """The long one is ``python -m tests.benchmarks.soak``; its lines are kept beside it."""
    file = tmp_path / "soak.csv"
    words = [sys.executable, "-m", "tests.benchmarks.soak", "--samples", "150"]
    ended = subprocess.run(
        [*words, "--batch-size", "10", "--output", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    with file.open(newline="") as lines:
        assert [int(line["samples"]) for line in csv.DictReader(lines)] == [50, 100, 150]
    (growth,) = re.findall(r"^growth (-?[\d.]+)%$", ended.stdout, re.MULTILINE)
    assert abs(float(growth)) < 3  # of so short a run; the long one is held to 1
