"""Several processes answer each document once, as one process does: two nodes, two on one."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from replay_adapters.lmms_eval import processes
from replay_core import UsageError
from replay_core.jsonl import read_lines
from tests.replay_adapters.conftest import Ended

LIMIT = 5  # odd, so that one process is given a document more
MODULE = "replay_adapters.lmms_eval.launcher"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def words(folder: Path) -> list[str]:
    given = "pair=demo_narrow,replay_steps=6,dtype=float32"
    asked = ["--model", "qwen2_vl_replay", "--model_args", given, "--tasks", "replay_demo"]
    asked += ["--limit", str(LIMIT), "--output_path", str(folder), "--log_samples"]
    return ["-m", MODULE, *asked]


def run(command: list[str], folder: Path) -> Ended:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command,
        env={**os.environ, **offline},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Ended:
    folder = tmp_path_factory.mktemp("one")
    return run([sys.executable, *words(folder)], folder)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> list[Ended]:
    """Two nodes with a process each, which are both their node's first."""
    folder, where = tmp_path_factory.mktemp("nodes"), port()

    def node(rank: int) -> Ended:
        command = [*TORCHRUN, "--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1"]
        command += ["--master_addr", "127.0.0.1", "--master_port", where, *words(folder)]
        return run(command, folder)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(node, range(2)))


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Ended:
    """Two processes on one node, by accelerate's own launcher."""
    folder = tmp_path_factory.mktemp("launched")
    command = [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port()]
    return run([*command, *words(folder)], folder)


def check_equal(several: Ended, one: Ended) -> None:
    """Each document stands once in the samples file, and is answered and steered as by one."""
    assert several.code == 0, several.output[-5000:]
    (path,) = several.folder.rglob("*_samples_*.jsonl")
    documents = [json.loads(line)["doc_id"] for line in path.read_text().splitlines()]
    assert sorted(documents) == list(range(LIMIT))
    assert several.answers == one.answers
    drop = {"seconds"}
    for ours, theirs in zip(several.records, one.records, strict=True):
        assert {k: v for k, v in ours.items() if k not in drop} == {
            k: v for k, v in theirs.items() if k not in drop
        }
    assert several.results["results"] == one.results["results"]
    totals, whole = (r.results["replay"]["totals"] for r in (several, one))
    assert totals["n"] == LIMIT
    assert totals["outcomes"] == whole["outcomes"] == {"applied": LIMIT}


def test_two_nodes_answer_each_document_once(nodes, alone):
    assert alone.code == 0, alone.output[-5000:]
    assert nodes[1].code == 0, nodes[1].output[-5000:]
    check_equal(nodes[0], alone)
    assert f"lmms_eval: {LIMIT} answers: applied {LIMIT}" in nodes[0].output
    assert "lmms_eval: " not in nodes[1].output  # the first process tells of all


def test_two_processes_answer_each_document_once(launched, alone):
    check_equal(launched, alone)


def lines(path: Path) -> list[dict[str, object]]:
    """Return what two processes have kept beside each other, those of the first one first."""
    return [line for file in (path, Path(f"{path}.1")) for line in read_lines(file)]


def test_two_killed_processes_are_continued_by_one(alone, tmp_path):
    """Nothing that either has answered is answered again, nor what both have answered."""
    journal, folder = tmp_path / "answers", tmp_path / "out"
    asked = words(folder)
    asked[asked.index("--model_args") + 1] += f",replay_journal={journal}"
    together = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", *asked]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(together, env={**os.environ, **offline}, stdout=log, stderr=log)
        files = journal, Path(f"{journal}.1")
        while killed.poll() is None and not all(map(read_lines, files)):
            time.sleep(0.01)
        for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
            process.kill()
        killed.wait()
    before = lines(journal)
    assert 2 <= len(before) < LIMIT, (tmp_path / "log").read_text()[-3000:]
    check_equal(run([sys.executable, *asked], folder), alone)
    after = lines(journal)
    assert all(line in after for line in before)
    assert len({line["key"] for line in after}) == len(after) == LIMIT


Started = Callable[[int, DistributedType], None]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Say how many processes were started, and how many accelerate counts."""

    def say(count: int, kind: DistributedType) -> None:
        monkeypatch.setenv("WORLD_SIZE", str(count))
        state = PartialState()
        counted = 1 if kind is DistributedType.NO else count
        monkeypatch.setitem(PartialState._shared_state, "num_processes", counted)
        monkeypatch.setitem(PartialState._shared_state, "distributed_type", kind)
        assert state.num_processes == counted

    return say


def test_processes_that_accelerate_does_not_count_are_refused(started: Started) -> None:
    started(4, DistributedType.NO)
    with pytest.raises(UsageError, match=r"4 processes were started, but accelerate counts 1"):
        processes.own_device("cpu")


def test_one_process_takes_the_device_that_is_asked_for(started: Started) -> None:
    started(1, DistributedType.NO)
    assert processes.own_device("cuda:1") == "cuda:1"
    assert processes.own_device(None) == str(PartialState().device)


def test_each_of_several_takes_its_own_device(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else ``--device cuda:0`` would put all pairs on one GPU."""
    started(2, DistributedType.MULTI_GPU)
    monkeypatch.setitem(PartialState._shared_state, "device", "cuda:1")
    assert processes.own_device("cuda:0") == "cuda:1"


@pytest.mark.parametrize("kind", [DistributedType.MULTI_CPU, DistributedType.MULTI_GPU])
def test_only_on_the_cpu_is_a_constructor_told_that_it_is_alone(
    started: Started, kind: DistributedType
) -> None:
    from lmms_eval.models.simple import qwen2_vl

    from replay_adapters.lmms_eval.models import Qwen2VLOnlyReplay

    started(2, kind)
    with processes.constructors_without_cuda(Qwen2VLOnlyReplay):
        given = qwen2_vl.Accelerator()
        assert given.num_processes == (1 if kind is DistributedType.MULTI_CPU else 2)
        assert given.process_index == Accelerator().process_index
    assert qwen2_vl.Accelerator is Accelerator
