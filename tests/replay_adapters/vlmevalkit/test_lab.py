"""Written answers to VLMEvalKit's sets of the paper, scored by the harness's own scorers.

``configs/benchmarks.yaml`` says how many each scores as a person would; here it is measured.
"""

import json
import os
import subprocess
import sys

import pytest
import yaml

from replay_adapters.runs.reader import read_runs
from replay_adapters.settings.answers import AnswerFormat, final_answer
from replay_adapters.settings.benchmarks import benchmark_of, benchmarks
from tests.support.lab.answers import LETTERS, WORDS
from tests.support.lab.sets import SETS, scored

TAGGED = AnswerFormat(tag="answer", boxed=True)
RUN = ("VStarBench", "HRBench4K", "MMMU_DEV_VAL", "WeMath")


@pytest.fixture(scope="module", autouse=True)
def as_tables(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRED_FORMAT", "tsv")
        patch.setenv("LMUData", str(tmp_path_factory.mktemp("data")))
        yield


def known(task):
    return benchmark_of(task).tasks[task]


def test_every_set_with_a_rule_scorer_is_measured():
    ruled = {
        name
        for each in benchmarks().values()
        for name, task in each.tasks.items()
        if task.harness == "vlmevalkit" and task.judge is None and not name.endswith("_16frame")
    }
    assert ruled == SETS.keys()


@pytest.mark.parametrize("task", SETS)
def test_answers_are_scored_as_a_person_would(task, tmp_path):
    form = known(task).takes
    answers = [final_answer(each.text, TAGGED, form) for each in LETTERS]
    found = scored(task, answers, tmp_path)
    wrong = [each for each, right in zip(LETTERS, found, strict=True) if right != each.right]
    assert known(task).right == f"{len(LETTERS) - len(wrong)}/{len(LETTERS)}"
    assert len(wrong) <= 1
    assert {each.form for each in wrong} <= {WORDS}
    assert bool(wrong) == ("option's words" in known(task).notes)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_pairs):
    """The command, on four sets: in the pair's protocol, and in the task's."""
    root = tmp_path_factory.mktemp("run")
    for task in RUN:
        SETS[task].write(task, root / "data")
    pair = tiny_pairs["qwen2_5_vl"]
    limits = {"min_pixels": 3136, "max_pixels": 50176, "generation": {"max_new_tokens": 500}}
    content = {
        "policy": str(pair.policy),
        "base": str(pair.base),
        "protocol": {**limits, "answer": {"tag": "answer", "boxed": True}},
    }
    (root / "mine.yaml").write_text(yaml.safe_dump(content))
    model = {"class": "Qwen2VLChatReplay", "pair": str(root / "mine.yaml"), "replay_method": "none"}
    small = {"min_pixels": 3136, "max_pixels": 50176, "max_new_tokens": 500}
    models = {"ours": model, "stock": {**model, **small, "replay_protocol": "task"}}
    data = {task: {"class": SETS[task].kind, "dataset": task} for task in RUN}
    (root / "run.json").write_text(json.dumps({"model": models, "data": data}))
    words = ["--config", str(root / "run.json"), "--work-dir", str(root / "work")]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.lab.vlmeval_scripted",
            *words,
            "--judge",
            "exact_matching",
        ],
        env={
            **os.environ,
            "LMUData": str(root / "data"),
            "PRED_FORMAT": "tsv",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    folders = {name: next((root / "work").glob(f"{name}-*")) for name in models}
    return {
        name: {log.task: log for log in read_runs(folder, RUN)} for name, folder in folders.items()
    }


@pytest.mark.parametrize("task", RUN)
def test_the_command_scores_them_as_a_person_would(run, task):
    log = run["ours"][task]
    wrong = [n for n, each in enumerate(LETTERS) if (log.scores[str(n)] == 1) != each.right]
    assert f"{len(LETTERS) - len(wrong)}/{len(LETTERS)}" == known(task).right
    for number, each in enumerate(LETTERS):
        (record,) = log.items[str(number)].records
        assert record["response"] == each.text
        assert record["answer"] == final_answer(each.text, TAGGED, known(task).takes)
    empty = sum(final_answer(each.text, TAGGED) == "" for each in LETTERS)
    assert empty >= 4
    assert log.settings["protocol_settings"]["answer"] == {"tag": "answer", "boxed": True}


@pytest.mark.parametrize("task", RUN)
def test_in_the_tasks_protocol_scores_are_the_stock_ones(run, task, tmp_path):
    stock = scored(task, [each.text for each in LETTERS], tmp_path)
    log = run["stock"][task]
    assert [log.scores[str(number)] == 1 for number in range(len(LETTERS))] == stock
    assert sum(right == each.right for right, each in zip(stock, LETTERS, strict=True)) < 20
    assert log.items["0"].records[0]["answer"] is None
