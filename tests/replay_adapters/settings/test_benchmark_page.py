"""The page on scoring says what the benchmarks' file says."""

from typing import get_args

from replay_adapters.settings.answers import Takes
from replay_adapters.settings.benchmark_page import page, table
from replay_adapters.settings.benchmarks import benchmarks
from replay_adapters.settings.resources import resource


def test_the_page_has_the_table_of_the_file():
    """If not: ``python -m replay_adapters.settings.benchmark_page``."""
    text = (resource("tasks") / "BENCHMARKS.md").read_text("utf-8")
    assert page(text) == text
    assert text.startswith("# ")
    assert page("Before.\n\n| benchmark | old |\n") == f"Before.\n\n{table()}"


def test_every_task_has_its_line_with_what_is_known_of_it():
    lines = [line for line in table().splitlines() if line.startswith("| ")]
    for name, benchmark in benchmarks().items():
        for task, facts in benchmark.tasks.items():
            (line,) = (line for line in lines if f"| `{task}` |" in line)
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert cells[0].startswith(f"{name}: ") or not cells[0]
            assert cells[1] == facts.harness
            assert cells[4:7] == [facts.judge or "–", f"`{facts.takes}`", facts.right or "–"]


def test_a_task_with_rules_says_how_it_scores_and_what_it_cannot_read():
    for benchmark in benchmarks().values():
        for task, facts in benchmark.tasks.items():
            if facts.harness == "lmms-eval" and not facts.loop:
                assert facts.scorer, task
                assert facts.right or facts.judge, task
                assert facts.notes or facts.right == "24/24", task


def test_every_form_of_an_answer_has_a_line():
    lines = (resource("tasks") / "BENCHMARKS.md").read_text("utf-8").splitlines()
    told = {line.split("`")[1] for line in lines if line.startswith("| `")}
    assert told == set(get_args(Takes))
