"""Written answers to every benchmark of the paper, scored by the harness's own scorers.

``configs/benchmarks.yaml`` says how many of them each scores as a person would, and what it cannot
read; here both are measured.
"""

import datasets
import pytest

from replay_adapters.lmms_eval.patches import find_included_tasks, mend_latex2sympy2
from replay_adapters.lmms_eval.scoring import scorer_of
from replay_adapters.settings.answers import final_answer
from replay_adapters.settings.benchmarks import benchmarks
from replay_adapters.settings.pairs import pair_names, read_pair
from tests.support.judge import listening
from tests.support.lab import rows
from tests.support.lab.scores import right_by

NAMED = {
    name: task
    for each in benchmarks().values()
    for name, task in each.tasks.items()
    if task.harness == "lmms-eval"
}
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

        folder = str(rows.write(tmp_path_factory.mktemp("tasks")))
        manager = TaskManager("ERROR", folder, include_defaults=False, model_name="qwen2_5_vl")
        made = get_task_dict([f"lab_{name}" for name in rows.LABS], manager, "chat")
        yield {name.removeprefix("lab_"): task for name, task in made.items()}


def test_there_are_rows_for_every_task():
    assert rows.LABS.keys() == NAMED.keys()
    assert all(len(lab.written) == 24 for lab in rows.LABS.values())


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
        for document, one in zip(documents, rows.LABS[name].written, strict=True)
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
    number = next(n for n, one in enumerate(rows.LABS[name].written) if one.truth == "12")
    document = dict((task.test_docs() if task.has_test_docs() else task.validation_docs())[number])
    judge.asked.clear()
    given = final_answer("<think>4 by 3</think><answer>12 cm</answer>", marks, known.takes)
    task.process_results(document, [given])
    asked = str(judge.asked)
    assert "12 cm" in asked
    assert "4 by 3" not in asked
