"""pass@k by what it means: the share of draws of k answers with a right one among them."""

import importlib.util
from itertools import combinations

import pytest

from replay_adapters.settings.resources import resource

path = resource("tasks") / "replay_demo" / "replay_demo.py"
spec = importlib.util.spec_from_file_location("replay_demo_task", path)
task = importlib.util.module_from_spec(spec)
spec.loader.exec_module(task)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_the_estimate_is_the_mean_over_all_draws(n):
    for correct in range(n + 1):
        answers = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            draws = [any(draw) for draw in combinations(answers, k)]
            expected = sum(draws) / len(draws)
            assert task.pass_at_k(n, correct, k) == pytest.approx(expected)


def test_all_answers_of_a_document_are_scored():
    right, wrong = "so <answer>4</answer>", "so <answer>5</answer>"
    doc = {"answer": "4"}
    scores = task.process_samples(doc, [right, wrong, wrong, right])
    assert scores == {
        "pass@1": pytest.approx(0.5),
        "pass@2": pytest.approx(5 / 6),
        "pass@4": pytest.approx(1.0),
    }
    assert task.process_samples(doc, [wrong] * 8)["pass@8"] == 0.0
