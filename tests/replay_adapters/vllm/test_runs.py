"""Whole runs of both harnesses, decoded with vLLM, against the same by transformers.

Wants vLLM, which has an environment of its own: see "Decode with vLLM" in replay_adapters.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

pytest.importorskip("vllm", reason="vLLM is not installed: it has an environment of its own")

from replay_adapters.runs.compare import compare_runs
from replay_adapters.settings.resources import resource
from replay_adapters.vlmevalkit.demo import demo_documents, write_set
from replay_core import UsageError
from replay_core.jsonl import read_lines
from replay_core.pair.loading import load_model
from tests.replay_adapters.conftest import Ended

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
VLLM = "replay_decode=vllm,vllm_gpu_memory_utilization=0.1,vllm_enforce_eager=true"
N = 24


def about(values: list[Any]) -> list[Any]:
    """Return values that losses of other batches fit, in float32."""
    return [pytest.approx(one, rel=1e-4) if isinstance(one, float) else one for one in values]


def decoders(ended: Ended) -> set[str]:
    return {record["decoder"] for record in ended.records}


@pytest.fixture(scope="module")
def by_transformers(lmms_eval) -> Ended:
    return lmms_eval(
        *("qwen2_vl_replay", "pair=demo_narrow", "replay_demo"),
        *("--batch_size", "4", "--limit", str(N)),
    )


@pytest.fixture(scope="module")
def killed_and_resumed(lmms_eval_command, tmp_path_factory) -> tuple[int, int, Ended]:
    """A run by vLLM that was killed behind its first answers, and started again."""
    journal = tmp_path_factory.mktemp("journal") / "answers"
    # Four answers at once, so that not all batches are answered in one go.
    given = f"pair=demo_narrow,{VLLM},vllm_max_num_seqs=4,replay_journal={journal}"
    command = lmms_eval_command(
        *("qwen2_vl_replay", given, "replay_demo"),
        *("--batch_size", "4", "--limit", str(N)),
    )
    started: list[psutil.Process] = []

    def answered() -> bool:
        started[:] = psutil.Process().children(recursive=True)
        return journal.exists() and journal.read_bytes().count(b"\n") >= 1

    code = command.run_until(answered)
    assert len(started) > 2
    _, left = psutil.wait_procs(started, timeout=60)
    assert not left, "the killed run's engine goes on, and keeps its memory"
    before = len(read_lines(journal))
    return code, before, command.run()


def test_a_killed_run_goes_on_to_the_answers_of_transformers(by_transformers, killed_and_resumed):
    code, before, ended = killed_and_resumed
    assert code < 0, "the run had ended before it was killed"
    assert 1 <= before < N / 4
    assert (ended.code, by_transformers.code) == (0, 0), ended.output[-3000:]
    assert len(ended.answers) == N
    assert ended.answers == by_transformers.answers
    assert decoders(ended) == {"vllm 0.32.0"}
    assert decoders(by_transformers) == {"transformers"}
    same = ("loss_before", "loss_after", "new_tokens", "finish_reason", "seed", "outcome")
    for ours, theirs in zip(ended.records, by_transformers.records, strict=True):
        assert [ours[name] for name in same] == about([theirs[name] for name in same])


def test_the_results_say_what_wrote_the_answers_and_compare_refuses_the_mixture(
    by_transformers, killed_and_resumed
):
    ended = killed_and_resumed[2]
    assert ended.results["replay"]["decoder"] == "vllm 0.32.0"
    assert ended.results["replay"]["engine"]["enforce_eager"] is True
    told = r"decoder is transformers in one and vllm 0\.32\.0 in the other"
    with pytest.raises(UsageError, match=told):
        compare_runs(by_transformers.folder, ended.folder)


@pytest.fixture(scope="module")
def sampled(lmms_eval) -> Ended:
    return lmms_eval(
        *("qwen2_vl_replay", f"pair=demo_narrow,{VLLM}", "replay_demo_passk"),
        *("--batch_size", "2", "--limit", "6"),
    )


def test_repeats_have_one_x_a_seed_each_and_their_order(sampled):
    assert sampled.code == 0, sampled.output[-3000:]
    assert len(sampled.samples) == 6
    different = 0
    for row in sampled.samples.values():
        records = row["replay"]
        assert len(records) == 8
        assert len({record["loss_after"] for record in records}) == 1
        assert len({record["seed"] for record in records}) == 8
        assert records[0]["seconds"]["loop"] > 0
        assert {record["seconds"]["loop"] for record in records[1:]} == {0.0}
        (texts,) = row["replay_answers"]
        different += len(set(texts)) > 1
    assert different > 0


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Path:
    """A pair file of the embedded agent, whose adapter is merged into its base."""
    peft = pytest.importorskip("peft", reason="peft, which merges the embedded adapter, is missing")
    folder, pairs = tmp_path_factory.mktemp("agent"), resource("configs") / "pairs"
    base, policy = pairs / "demo_agent" / "base", folder / "policy"
    shutil.copytree(base, policy)
    merged = peft.PeftModel.from_pretrained(load_model(base), pairs / "demo_agent" / "policy")
    merged.merge_and_unload().save_pretrained(policy)
    told = yaml.safe_load((pairs / "demo_agent.yaml").read_text())
    told |= {"policy": str(policy), "base": str(base)}
    (folder / "agent.yaml").write_text(yaml.safe_dump(told))
    return folder / "agent.yaml"


@pytest.fixture(scope="module")
def conversations(lmms_eval, agent) -> list[Ended]:
    given = ("replay_zoom", "--batch_size", "4", "--limit", "8")
    return [
        lmms_eval("qwen2_vl_replay", f"pair={agent}{more}", *given) for more in ("", f",{VLLM}")
    ]


def test_conversations_go_the_same_way_turn_by_turn(conversations):
    theirs, ours = conversations
    assert (ours.code, theirs.code) == (0, 0), ours.output[-3000:]
    assert ours.answers == theirs.answers
    told = ("turn", "tool", "new_tokens", "finish_reason", "response", "seed")
    assert [[one[name] for name in told] for one in ours.records] == [
        [one[name] for name in told] for one in theirs.records
    ]
    assert max(one["turn"] for one in ours.records) >= 1
    assert decoders(ours) == {"vllm 0.32.0"}


def lines(work: Path, arm: str) -> list[dict[str, Any]]:
    (file,) = work.glob(f"demo_narrow-{arm}-*/replay/replay_demo.jsonl")
    return read_lines(file)


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> dict[str, Path]:
    """Two arms of VLMEvalKit's in one process by either decoder, two samples each."""
    data = tmp_path_factory.mktemp("data")
    write_set(data / "replay_demo.tsv", demo_documents()[:N])
    done = {}
    for name, more in (("transformers", ""), ("vllm", f"{VLLM.replace('replay_', '')}")):
        done[name] = work = tmp_path_factory.mktemp(name)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "replay_adapters.vlmevalkit"),
                *("--model", "demo_narrow-replay", "demo_narrow-none", "--data", "replay_demo"),
                *("--mode", "infer", "--work-dir", str(work)),
                *(("--replay", more) if more else ()),
            ],
            env={**os.environ, "LMUData": str(data), "PRED_FORMAT": "tsv", "OMP_NUM_THREADS": "1"},
            cwd=work,
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
    return done


@pytest.mark.parametrize("arm", ["replay", "none"])
def test_both_arms_of_vlmevalkit_answer_as_with_transformers(kit, arm):
    theirs, ours = (lines(kit[name], arm) for name in ("transformers", "vllm"))
    assert [line["index"] for line in ours] == list(range(N))
    assert [line["predictions"] for line in ours] == [line["predictions"] for line in theirs]
    assert {line["replay"][0]["decoder"] for line in ours} == {"vllm 0.32.0"}
    same = ("loss_after", "new_tokens", "seed", "outcome")
    for mine, its in zip(ours, theirs, strict=True):
        pairs = zip(mine["replay"], its["replay"], strict=True)
        for a, b in pairs:
            assert [a[name] for name in same] == about([b[name] for name in same])


def test_the_arms_of_vlmevalkit_differ_and_the_harness_has_their_answers(kit):
    ours = {arm: lines(kit["vllm"], arm) for arm in ("replay", "none")}
    texts = {arm: [line["predictions"][0] for line in found] for arm, found in ours.items()}
    assert texts["replay"] != texts["none"]
    settings = json.loads(
        next(kit["vllm"].glob("demo_narrow-replay-*/replay/settings.json")).read_text()
    )
    assert settings["decoder"] == "vllm 0.32.0"
