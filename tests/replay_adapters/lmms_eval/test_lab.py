"""Written answers to every benchmark of the paper, scored by the harness's own scorers.

``configs/benchmarks.yaml`` says how many of them each scores as a person would, and what it cannot
read; here both are measured.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from replay_adapters.lmms_eval.patches import find_included_tasks, mend_latex2sympy2
from replay_adapters.lmms_eval.scoring import scorer_of
from replay_adapters.settings.answers import final_answer
from replay_adapters.settings.benchmarks import benchmarks, form_taken
from replay_adapters.settings.pairs import pair_names, read_pair
from replay_adapters.settings.resources import resource
from tests.support.judge import listening
from tests.support.lab.answers import LETTERS
from tests.support.lab.scores import adds_up, right_by
from tests.support.lab.tasks import LABS, write, write_clips

NAMED = {
    name: task
    for each in benchmarks().values()
    for name, task in each.tasks.items()
    if task.harness == "lmms-eval" and not task.loop  # whose rounds are another protocol
}
PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
# Where the judge decides about every answer; HR-Bench's is asked where no option is named.
JUDGED = [
    name for name, task in NAMED.items() if task.judge and not name.startswith(("hrbench", "mmvu"))
]
RULED = sorted(NAMED.keys() - set(JUDGED))
# One pair for each way in which an answer is marked.
MARKED = {marks: name for name in pair_names()[::-1] if (marks := read_pair(name).protocol.answer)}


@pytest.fixture(scope="module")
def judge():
    """Finds that no answer is one of the options."""
    with listening(lambda prompt: "Z") as judge:
        yield judge


@pytest.fixture(scope="module")
def tasks(judge, tmp_path_factory):
    """Every task of the harness that the file names, with rows of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HF_HOME": str(tmp_path_factory.mktemp("home")),
            "HF_DATASETS_OFFLINE": "1",
            "OPENAI_API_KEY": "none",
            "OPENAI_API_URL": judge.url,
        }.items():
            patch.setenv(name, value)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        mend_latex2sympy2()
        find_included_tasks()
        from lmms_eval.tasks import TaskManager, get_task_dict
        from lmms_eval.tasks.hrbench.hrbench_evals import HRBenchEval

        # It reads the address when it is imported, which another test may have done before.
        patch.setattr(HRBenchEval, "API_URL", judge.url + "/chat/completions")
        folder = str(write(tmp_path_factory.mktemp("tasks")))
        manager = TaskManager("ERROR", folder, include_defaults=False, model_name="qwen2_5_vl")
        made = get_task_dict([f"lab_{name}" for name in LABS], manager, "chat")
        yield {name.removeprefix("lab_"): task for name, task in made.items()}


def test_there_are_rows_for_every_task():
    assert LABS.keys() == NAMED.keys()
    assert all(len(lab.written) == 24 for lab in LABS.values())


@pytest.mark.parametrize("name", NAMED)
def test_the_file_names_the_scorer_of_a_task(tasks, name):
    assert scorer_of(tasks[name]) == NAMED[name].scorer


@pytest.mark.parametrize("pair", MARKED.values())
@pytest.mark.parametrize("name", RULED)
def test_answers_are_scored_as_a_person_would(tasks, name, pair):
    marks, known, task = read_pair(pair).protocol.answer, NAMED[name], tasks[name]
    documents = list(task.test_docs() if task.has_test_docs() else task.validation_docs())
    missed = [
        one
        for document, one in zip(documents, LABS[name].written, strict=True)
        if right_by(task, name, document, final_answer(one.text, marks, known.takes))
        is not one.right
    ]
    assert known.right == f"{24 - len(missed)}/24", [one.text for one in missed]
    assert not {one.form for one in missed if one.form not in known.notes}


@pytest.mark.parametrize("name", JUDGED)
def test_a_judge_is_asked_about_the_final_answer(tasks, judge, name):
    task, known = tasks[name], NAMED[name]
    assert not known.right
    marks = read_pair("mm_eureka_7b").protocol.answer
    number = next(n for n, one in enumerate(LABS[name].written) if one.truth == "12")
    document = dict((task.test_docs() if task.has_test_docs() else task.validation_docs())[number])
    judge.asked.clear()
    given = final_answer("<think>4 by 3</think><answer>12 cm</answer>", marks, known.takes)
    task.process_results(document, [given])
    asked = str(judge.asked)
    assert "12 cm" in asked
    assert "4 by 3" not in asked
    assert "</answer>" not in asked


# One task for each scorer and kind of rows; and two whose answers have room.
RUN = [
    name
    for name in RULED
    if not name.startswith(("hrbench8k", "mmvu_val", "video_holmes_", "video_mmmu_co", "video_r1"))
    and (not name.endswith("_long") or name in ("vstar_bench_long", "mlvu_dev_long"))
] + ["mmvu_val_mc"]


Samples = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def scored(judge, tiny_pairs, tmp_path_factory) -> dict[str, Samples]:
    """The samples of three runs of the real command line on every task, with their prompts.

    ``pair``: in a pair's format; ``task``: with the texts as they are; ``stock``: the same of the
    harness's own command line, and a model of its own kind.
    """
    folder, pair = tmp_path_factory.mktemp("scored"), tiny_pairs["qwen2_5_vl"]
    shipped = yaml.safe_load((resource("configs") / "pairs" / "mm_eureka_7b.yaml").read_text())
    limits = {"min_pixels": 3136, "max_pixels": 6272, "max_num_frames": 2}
    own = {"policy": str(pair.policy), "base": str(pair.base)}
    own |= {"protocol": shipped["protocol"] | limits}
    (folder / "pair.yaml").write_text(yaml.safe_dump(own))
    include, names = str(write(folder / "tasks", RUN)), [f"lab_{name}" for name in RUN]
    ours = f"pair={folder / 'pair.yaml'},replay_method=none"
    models = {
        "pair": ("qwen2_vl_replay", ours),
        "task": ("qwen2_vl_replay", f"{ours},replay_protocol=task,max_num_frames=2"),
        "stock": ("writer", f"tokenizer={pair.policy}"),
    }
    lines = []
    for name, (model, given) in models.items():
        arguments = ["--model", model, "--model_args", given, "--tasks", ",".join(names)]
        arguments += ["--include_path", include, "--output_path", str(folder / name)]
        arguments += ["--device", "cpu", "--log_samples", "--batch_size", "8"]
        arguments += ["--process_docs_parallel", "1"]
        lines.append((name != "stock", arguments, str(folder / f"{name}.code")))
    wanted = {
        "texts": {f"lab_{name}": [one.text for one in LABS[name].written] for name in RUN},
        "tokenizer": str(pair.policy),
        "runs": lines,
    }
    (folder / "wanted.json").write_text(json.dumps(wanted))
    environment = {
        **os.environ,
        **{"HF_HOME": str(write_clips(folder / "home", RUN)), "HF_HUB_OFFLINE": "1"},
        **{"OPENAI_API_KEY": "none", "OPENAI_API_URL": judge.url, "OMP_NUM_THREADS": "1"},
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.lab.scripted", str(folder / "wanted.json")],
        env=environment | {"HF_DATASETS_OFFLINE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    (folder / "log").write_text(ended.stdout)
    codes = [(folder / f"{name}.code").read_text() for name in models]
    assert (ended.returncode, codes) == (0, ["0", "0", "0"]), ended.stdout[-5000:]
    return {name: {task: _samples(folder / name, task) for task in RUN} for name in models}


def _samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.rglob(f"*_samples_lab_{task}.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    prompts = json.loads(folder.with_suffix(".prompts").read_text()).get(f"lab_{task}", {})
    for sample in samples:
        sample["prompt"] = prompts.get(str(sample["doc_id"]))
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("name", RUN)
def test_a_run_scores_them_as_the_laboratory_does(tasks, scored, name):
    task, marks = tasks[name], read_pair("mm_eureka_7b").protocol.answer
    takes = form_taken(f"lab_{name}", NAMED[name].scorer)  # known by its scorer, not by its name
    documents = list(task.test_docs() if task.has_test_docs() else task.validation_docs())
    samples = scored["pair"][name]
    written = LABS[name].written
    assert len(samples) == len(written)
    for document, sample, one in zip(documents, samples, written, strict=True):
        answer = final_answer(one.text, marks, takes)
        assert sample["filtered_resps"] == answer
        (record,) = sample["replay"]
        assert (record["response"], record["answer"]) == (one.text, answer)
        expected = right_by(task, name, document, answer)
        if expected is not None:  # what is left to chance is told by the run alone
            assert adds_up(task, name, sample) is expected, one.text


@pytest.mark.parametrize("name", RUN)
def test_a_run_asks_each_question_in_the_pairs_own_words(scored, name):
    system = f"<|im_start|>system\n{PUBLISHED['mm_eureka_system']}<|im_end|>\n"
    for own, stock in zip(scored["pair"][name], scored["task"][name], strict=True):
        before, user, question = own["prompt"].partition("<|im_start|>user\n")
        assert before == system
        assert user + question == stock["prompt"][stock["prompt"].index(user) :]
        if name != "mmmu_pro_vision":  # whose question stands in the picture
            assert (
                f"of line {own['doc_id']}?" in question or f"is line {own['doc_id']}?" in question
            )


@pytest.mark.parametrize("name", RUN)
def test_without_the_pairs_protocol_scores_are_the_stock_harness_own(tasks, scored, name):
    ours, stock = scored["task"][name], scored["stock"][name]
    assert len(ours) == len(stock) == 24
    metrics = [metric for metric in tasks[name].aggregation() if metric in stock[0]]
    assert metrics
    for mine, its in zip(ours, stock, strict=True):
        assert {key: mine.get(key) for key in metrics} == {key: its.get(key) for key in metrics}


def test_a_twin_leaves_room_for_an_answer_that_the_harness_cuts(scored):
    number, (text, *_) = next(
        (number, one) for number, one in enumerate(LETTERS) if "<answer>(B)" in one.text
    )
    for name, cut in {"vstar_bench": True, "vstar_bench_long": False}.items():
        (record,) = scored["task"][name][number]["replay"]
        assert record["truncated"] is cut
        assert (record["new_tokens"] == 16) is cut
        # A pair's own limit wins over either.
        assert scored["pair"][name][number]["replay"][0]["response"] == text


@pytest.mark.parametrize("name", [name for name in NAMED if name.endswith("_long")])
def test_a_twin_differs_in_that_room_only(tasks, name):
    twin, own = (_settings(tasks[each]) for each in (name, name.removesuffix("_long")))
    limits = [each.pop("generation_kwargs") for each in (twin, own)]
    assert twin == own
    changed = {"max_new_tokens": 8192, "until": []}
    decoding = {key: value for key, value in limits[1].items() if key not in changed}
    assert {"do_sample": False, **limits[0]} == {"do_sample": False, **decoding, **changed}


def _settings(task: Any) -> dict[str, Any]:
    """Return a task's settings but its name and files, with functions by their names."""
    config = task.config.to_dict()
    for key in ("task", "dataset_kwargs", "tag"):
        config.pop(key, None)
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, default=str)))


def test_mmvus_multiple_choice_items_are_all_that_is_asked():
    from lmms_eval.utils import load_yaml_config

    find_included_tasks()
    lab = LABS["mmvu_val_mc"]
    chosen = load_yaml_config(str(resource("tasks") / lab.file))["process_docs"]
    written = (*lab.more, *lab.written)
    asked = chosen(datasets.Dataset.from_list([lab.row(*each) for each in enumerate(written)]))
    assert asked["id"] == [f"validation_{number}" for number in range(1, 25)]
