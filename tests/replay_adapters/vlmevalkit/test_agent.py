"""DeepEyes' conversation inside the model, in the real VLMEvalKit, on sets in their own schemas.

What the policy writes is scripted, token by token; all else is real.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from replay_core.jsonl import read_lines
from tests.replay_adapters.vlmevalkit.conftest import answers
from tests.support import deepeyes_sets as sets

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
QUESTION = "What colour is the car?"
SQUARE = [126, 84, 157.5, 105]  # of 252 x 168: the white square of every picture
ZOOM = f"<think>Closer.</think>{sets.call(SQUARE)}"
SCRIPT = {QUESTION: [sets.call("x"), ZOOM, "<answer>A</answer>"]}
DATA = {
    "HRBench4K": {"class": "HRBenchDataset", "dataset": "HRBench4K"},
    "VStarBench": {"class": "ImageMCQDataset", "dataset": "VStarBench"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_pairs):
    """A folder with sets, pair file and script."""
    root = tmp_path_factory.mktemp("agent")
    (root / "lmu").mkdir()
    sets.write_vlmevalkit(root / "lmu", [QUESTION])
    sets.pair_file(root / "mine.yaml", *tiny_pairs["qwen2_5_vl"], max_turns=4)
    (root / "script.json").write_text(json.dumps(SCRIPT))
    return root


def command(root: Path, work: Path, data=DATA, **options) -> list[str]:
    model = {"class": "Qwen2VLChatReplay", "pair": str(root / "mine.yaml"), **options}
    run_file = work / "run.json"
    run_file.write_text(json.dumps({"model": {"tiny": model}, "data": data}))
    words = [sys.executable, "-m", "tests.support.scripted", str(root / "script.json")]
    words += [str(work / "calls.jsonl"), "vlmeval", "--config", str(run_file)]
    return [*words, "--work-dir", str(work / "out"), "--judge", "exact_matching"]


def environment(root: Path) -> dict[str, str]:
    ours = {"LMUData": str(root / "lmu"), "PRED_FORMAT": "tsv", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours, "HF_HUB_OFFLINE": "1"}


def run(root: Path, work: Path, **how) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, work, **how),
        env=environment(root),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def resumed(prepared, tmp_path_factory):
    """A run killed between two turns of its second row, and started again."""
    work = tmp_path_factory.mktemp("resumed")
    calls = work / "calls.jsonl"
    with (work / "killed.log").open("w") as log:
        killed = subprocess.Popen(
            command(prepared, work), env=environment(prepared), stdout=log, stderr=log
        )
        deadline = time.monotonic() + 280
        while len(turns_of(work)) < 4:
            assert killed.poll() is None, (work / "killed.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        killed.kill()
        killed.wait()
    finished = len(turns_of(work))
    calls.unlink()
    ended = run(prepared, work)
    assert ended.returncode == 0, ended.stdout[-5000:]
    return work, finished


def turns_of(work: Path) -> list[dict]:
    return [line for path in work.rglob("*.turns") for line in read_lines(path)]


def test_a_killed_run_repeats_no_finished_turn(resumed):
    work, finished = resumed
    assert finished >= 4  # so that the kill was not between two rows alone
    rows, each = 4 + 2, 3
    assert len(read_lines(work / "calls.jsonl")) + finished == rows * each
    assert not turns_of(work)  # nothing is left of them


def test_every_turn_has_its_record_and_the_answer_is_scored(resumed):
    work, _ = resumed
    for dataset, rows in (("HRBench4K", 4), ("VStarBench", 2)):
        found = answers(work / "out", "tiny", dataset)
        assert list(found.predictions.values()) == ["A"] * rows
        assert [line["scores"] for line in found.lines] == [[1.0], *[[0.0]] * (rows - 1)]
        for line in found.lines:
            assert [record["turn"] for record in line["replay"]] == [0, 1, 2]
            refused, zoomed, answered = line["replay"]
            assert "not 'x'" in refused["tool"]["told"]
            assert zoomed["tool"]["box"] == SQUARE
            assert zoomed["tool"]["crop"] == [320, 240, 400, 300]
            assert zoomed["tool"]["size"] == [84, 56]
            assert answered["tool"] is None
            assert [r["response"] for r in line["replay"]] == SCRIPT[QUESTION]
            assert [r["answer"] for r in line["replay"]] == [None, None, "A"]
            assert [r["visual_tokens"] for r in line["replay"]] == [54, 54, 60]
            assert {r["outcome"] for r in line["replay"]} == {"applied"}
            assert {r["finish_reason"] for r in line["replay"]} == {"stop"}
        seeds = [record["seed"] for line in found.lines for record in line["replay"]]
        assert len(set(seeds)) == len(seeds)


def test_what_reaches_the_tokenizer_is_the_published_protocol(resumed):
    work, _ = resumed
    call = read_lines(work / "calls.jsonl")[-1]  # the last turn of the last row
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    question = PUBLISHED["deepeyes_hrbench_question"].replace("{question}", QUESTION)
    question = question.replace("{options}", "\nA. green\nB. blue\nC. grey\nD. red\n")
    response = "".join(PUBLISHED["deepeyes_tool_response_turn"])
    told = "bbox_2d must be four numbers, [x1, y1, x2, y2] in pixels of the image, not 'x'."
    expected = turn.format("system", PUBLISHED["deepeyes_system"])
    expected += turn.format("user", picture + question + PUBLISHED["deepeyes_user"])
    for said, shown in ((sets.call("x"), told), (ZOOM, picture)):
        expected += turn.format("assistant", said)
        expected += turn.format("user", response.replace("<image>", shown))
    assert call["prompts"] == [expected + "<|im_start|>assistant\n"]
    assert call["grids"] == [[1, 12, 18], [1, 4, 6]]
    assert call["bright"][0] < 0 < 1.9 < call["bright"][1]


def test_each_of_several_samples_is_a_conversation_and_x_may_be_kept(prepared, tmp_path):
    ended = run(
        *(prepared, tmp_path),
        data={"VStarBench": DATA["VStarBench"]},
        samples=2,
        temperature=1.0,
        replay_turns="reuse",
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
    found = answers(tmp_path / "out", "tiny", "VStarBench")
    for line in found.lines:
        assert line["predictions"] == ["A", "A"]
        assert [record["turn"] for record in line["replay"]] == [0, 1, 2] * 2
        assert len({record["seed"] for record in line["replay"]}) == 6
    calls = read_lines(tmp_path / "calls.jsonl")
    for first, refused, crop in zip(calls[::3], calls[1::3], calls[2::3], strict=True):
        x = [call["x"][0] for call in (first, refused, crop)]
        assert [len(norms) for norms in x] == [54, 54, 60]
        assert x[0] == pytest.approx(x[1])
        assert x[0] == pytest.approx(x[2][:54])
        assert min(x[2]) > 0


def test_a_set_without_the_loop_is_refused_before_anything_is_loaded(prepared, tmp_path):
    other = {"MMMU_DEV_VAL": {"class": "MMMUDataset", "dataset": "MMMU_DEV_VAL"}}
    ended = run(prepared, tmp_path, data=other)
    assert ended.returncode == 2, ended.stdout[-3000:]
    assert "task MMMU_DEV_VAL does not answer the tool calls" in ended.stdout
    assert "replay_protocol=task" in ended.stdout
