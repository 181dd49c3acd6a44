"""The demonstration in VLMEvalKit, as its command runs it."""

import os
import re
import subprocess
import sys


def test_the_demonstration_prints_the_paired_table_and_writes_its_files(tmp_path):
    command = [sys.executable, "-m", "replay_adapters.cli", "demo", "--harness", "vlmevalkit"]
    ended = subprocess.run(
        [*command, "--limit", "4", "--output", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = dict(re.findall(r"^  (\S.*?)  +(.+)$", ended.stdout, re.MULTILINE))
    assert rows["items (n)"] == "4"
    assert 0 <= float(rows["accuracy, replay_method=none"]) <= 1
    assert sum(map(int, re.findall(r"\d+", rows["outcomes"]))) == 4
    paths = ended.stdout.partition("Files")[2].split()
    assert {path.rpartition(".")[2] for path in paths} == {"tsv", "jsonl", "json", "png"}
    assert all(os.path.getsize(path) for path in paths)
