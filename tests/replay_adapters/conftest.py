"""Tiny pairs on disk, and the harness run as a user runs it: in a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replay_core.jsonl import finished_lines
from tests.support import tiny

TASKS = Path(__file__).parent / "lmms_eval" / "tasks"
REPLAY = "replay_layers=3,replay_threshold=0.7,replay_step_size=3"


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory) -> dict[str, tiny.TinyPair]:
    """One pair of checkpoints per family, in float32."""
    root = tmp_path_factory.mktemp("pairs")
    return {family: tiny.make_pair(root / family, family) for family in tiny.EVERY_FAMILY}


@dataclass(frozen=True)
class Ended:
    """A finished run of the harness, with what it wrote."""

    code: int
    output: str
    folder: Path

    @property
    def results(self) -> dict[str, Any]:
        (path,) = self.folder.rglob("*_results.json")
        return json.loads(path.read_text())

    @property
    def samples(self) -> dict[int, dict[str, Any]]:
        (path,) = self.folder.rglob("*_samples_*.jsonl")
        return {row["doc_id"]: row for row in finished_lines(path)}

    @property
    def answers(self) -> dict[int, str]:
        return {document: row["filtered_resps"] for document, row in self.samples.items()}

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for _, row in sorted(self.samples.items()) for record in row["replay"]]


Run = Callable[..., Ended]


@dataclass(frozen=True)
class Command:
    """A command line of lmms-eval, the folder that it runs in, and its environment."""

    words: list[str]
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        return {**os.environ, "OMP_NUM_THREADS": "1", **offline}

    def run(self) -> Ended:
        ended = subprocess.run(
            self.words,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, self.folder)

    def run_until(self, reached: Callable[[], bool]) -> int:
        """Kill the run as soon as ``reached``; return its exit code, negative for the signal."""
        with (self.folder / "killed.log").open("w") as log:
            process = subprocess.Popen(
                self.words, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
            while process.poll() is None and not reached():
                time.sleep(0.02)
            process.kill()
            return process.wait()


Prepare = Callable[..., Command]


@pytest.fixture(scope="session")
def lmms_eval_command(tmp_path_factory) -> Prepare:
    """Prepare lmms-eval's command line; ``module`` says through which of its entries."""

    def prepare(
        model: str,
        model_args: str,
        task: str = "replay_test_pictures",
        *more: str,
        module: str = "replay_adapters.lmms_eval.launcher",
    ) -> Command:
        folder = tmp_path_factory.mktemp("run")
        command = [sys.executable, "-m", module, "--model", model, "--model_args", model_args]
        command += ["--tasks", task, "--include_path", str(TASKS), "--output_path", str(folder)]
        command += ["--log_samples", "--device", "cpu", *more]
        return Command(command, folder)

    return prepare


@pytest.fixture(scope="session")
def lmms_eval(lmms_eval_command) -> Run:
    """Run lmms-eval's command line."""
    return lambda *words, **more: lmms_eval_command(*words, **more).run()


SEVERAL = """
import json, sys
from lmms_eval.cli import dispatch
from replay_adapters.lmms_eval import launcher

for module, arguments, codes in json.loads(sys.argv[1]):
    sys.argv = ["lmms_eval", *arguments]
    code = 0
    try:
        (dispatch.main if module == "lmms_eval" else launcher.main)()
    except SystemExit as ended:
        code = ended.code or 0
    with open(codes, "w") as file:
        file.write(str(code))
"""


@pytest.fixture(scope="session")
def several_lmms_evals(tmp_path_factory) -> Callable[[list[tuple[str, ...]]], list[Ended]]:
    """Run lmms-eval's command line several times in one process: importing it takes the most.

    A run is (module, model, model_args, task, further arguments …).
    """

    def run(wanted: list[tuple[str, ...]]) -> list[Ended]:
        folders, lines = [], []
        for module, model, model_args, task, *more in wanted:
            folder = tmp_path_factory.mktemp("run")
            folders.append(folder)
            arguments = ["--model", model, "--model_args", model_args, "--tasks", task]
            arguments += ["--include_path", str(TASKS), "--output_path", str(folder / "out")]
            arguments += ["--log_samples", "--device", "cpu", *more]
            lines.append((module, arguments, str(folder / "code")))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        }
        ended = subprocess.run(
            [sys.executable, "-c", SEVERAL, json.dumps(lines)],
            cwd=folders[0],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        assert (folders[-1] / "code").exists(), ended.stdout
        return [Ended(int((f / "code").read_text()), ended.stdout, f) for f in folders]

    return run
