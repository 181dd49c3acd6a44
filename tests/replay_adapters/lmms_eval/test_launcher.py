"""Bad input on the command line: one sentence, no traceback, exit code 2, no weights read.

And what the command does once: pairs are read once, evaluations do not see each other.
"""

import json
import re
import subprocess
import sys

import pytest

from replay_adapters.lmms_eval import launcher
from tests.replay_adapters.conftest import REPLAY, TASKS, Command, Ended

TASK = "replay_test_pictures"


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run the command with --model_args and return the one line it prints."""

    def run(model_args: str, *more: str, tasks: str = "replay_test_pictures") -> str:
        line = ["lmms_eval", "--model", "qwen2_vl_replay", "--model_args", model_args]
        included = ["--include_path", str(TASKS)]
        monkeypatch.setattr(sys, "argv", [*line, "--tasks", tasks, *included, *more])
        with pytest.raises(SystemExit) as ended:
            launcher.main()
        assert ended.value.code == 2
        (told,) = capsys.readouterr().err.strip().splitlines()
        assert "Traceback" not in told
        return told

    return run


def test_every_bad_input_of_the_command_line_is_one_sentence(refused, tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_5_vl"]
    good = f"pretrained={pair.policy},replay_base={pair.base}"
    malformed = tmp_path / "pair.yaml"
    malformed.write_text("policy: [")
    other = tiny_pairs["qwen2_vl"].base
    for given, told in {
        "pair=nosuch": "pair=nosuch is neither a shipped pair nor a pair file",
        f"pretrained={pair.policy}": "replay_base is missing",
        f"pretrained={pair.policy},replay_base={other}": "(qwen2_5_vl and qwen2_vl; it must be",
        f"{good},replay_threshold=0": "replay_threshold=0 is not allowed",
        f"{good},replay_threshold=1.5": "replay_threshold=1.5 is not allowed",
        f"{good},replay_steps=-3": "replay_steps=-3 is not allowed",
        f"{good},replay_layers=99": "replay_layers=99 is not possible",
        f"{good},replay_treshold=0.4": "did you mean replay_threshold?",
        f"{good},replay_select=lo": "(allowed: low, high, all, random, matched_low,",
        f"{good},replay_boundary=reference,replay_layers=5": "includes the last of 5 layers",
        f"pretrained={tmp_path},replay_base={pair.base}": "is not a checkpoint",
        f"pair={malformed}": "is not YAML",
        "junk": "--model_args junk is not a list of name=value pairs",
    }.items():
        assert told in refused(given)


def test_flags_of_the_harness_that_its_classes_cannot_take_are_one_sentence(refused):
    assert "--batch_size auto is not allowed" in refused("", "--batch_size", "auto")
    assert "--batch_size auto:4 is not allowed" in refused("", "-b", "auto:4")
    assert "--gen_kwargs top_k=x is not allowed" in refused("", "--gen_kwargs=top_k=x")


def test_the_embedded_pair_answers_its_own_tasks_only(refused):
    assert "task 'mmmu_val' cannot be answered by the embedded pair" in refused(
        "", tasks="mmmu_val"
    )


def test_an_old_transformers_is_one_sentence_with_both_versions(refused, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.17.0")
    told = refused("")
    assert "transformers 5.17.0 is installed, but 5.18 or newer is needed" in told


READS = """
import json
import sys
from collections import Counter
from replay_adapters.lmms_eval import launcher
from replay_adapters.settings import checkpoints

reads, pair = Counter(), sys.argv.pop(1)
load_config = checkpoints.load_config

def noting(checkpoint):
    reads["config.json"] += 1
    return load_config(checkpoint)

checkpoints.load_config = noting

def opened(event, given):
    if event == "open" and given[0] == pair:
        reads["pair"] += 1

sys.addaudithook(opened)
launcher.main()
print("reads", json.dumps(reads))
"""


def test_a_run_reads_its_pair_file_and_each_checkpoints_config_once(
    lmms_eval_command, tiny_pairs, tmp_path
):
    """The command line, the choice of the class and the class itself all ask for them."""
    pair, file = tiny_pairs["qwen2_vl"], tmp_path / "mine.yaml"
    file.write_text(f"policy: {pair.policy}\nbase: {pair.base}\n")
    given = f"pair={file},replay_steps=1,{REPLAY}"
    command = lmms_eval_command("qwen2_vl_replay", given, TASK, "--limit", "1")
    script = [sys.executable, "-c", READS, str(file), *command.words[3:]]
    ended = Command(script, command.folder).run()
    assert ended.code == 0, ended.output
    (told,) = re.findall(r"^reads (.*)$", ended.output, re.MULTILINE)
    assert json.loads(told) == {"pair": 1, "config.json": 2}


TWO = """
import json
import sys
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager
from replay_adapters.lmms_eval.models import Qwen2VLReplay

given, tasks, task = sys.argv[1:]
ready = Qwen2VLReplay.create_from_arg_string(f"{given},replay_steps=1", {"device": "cpu"})
for model, arguments in (("qwen2_vl_replay", f"{given},replay_method=none"), (ready, "")):
    manager = TaskManager("ERROR", tasks, model_name="qwen2_vl_replay")
    results = evaluator.simple_evaluate(
        model, arguments, tasks=[task], task_manager=manager, device="cpu", batch_size=1, limit=3,
        process_docs_parallel=3,
    )
    samples = results["samples"][task]
    print("told", json.dumps([results["replay"]["totals"]["outcomes"],
                              [record["outcome"] for s in samples for record in s["replay"]]]))
"""


def test_two_evaluations_in_one_process_do_not_see_each_other(tiny_pairs):
    """By a name, while a model that was built before waits; then of that model. Three threads."""
    pair = tiny_pairs["qwen2_vl"]
    given = f"pretrained={pair.policy},replay_base={pair.base},max_pixels=50176"
    words = [sys.executable, "-c", TWO, given, str(TASKS), TASK]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    told = [json.loads(line) for line in re.findall(r"^told (.*)$", ended.stdout, re.MULTILINE)]
    assert told == [[{name: 3}, [name] * 3] for name in ("off", "applied")]


def test_a_config_files_evaluations_have_their_own_records(tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_vl"]
    given = f"pretrained={pair.policy},replay_base={pair.base},max_pixels=50176"
    runs = [
        {
            "model": "qwen2_vl_replay",
            "model_args": f"{given},replay_method={method}",
            "tasks": TASK,
            "include_path": str(TASKS),
            "device": "cpu",
            "limit": 2,
            "log_samples": True,
            "output_path": str(tmp_path / method),
        }
        for method in ("none", "base")
    ]
    file = tmp_path / "runs.yaml"
    file.write_text(json.dumps(runs))
    words = [sys.executable, "-m", "replay_adapters.lmms_eval.launcher", "--config", str(file)]
    ended = Command(words, tmp_path).run()
    assert ended.code == 0, ended.output
    for method in ("none", "base"):
        run = Ended(0, "", tmp_path / method)
        assert [record["method"] for record in run.records] == [method] * 2
        assert run.results["replay"]["totals"]["n"] == 2
