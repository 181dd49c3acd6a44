"""What counts as a score, what belongs together, and what of two harnesses' files is read."""

import math

import numpy as np
import pytest

from replay_adapters.lmms_eval.metrics import number
from replay_adapters.runs.run import Item, RunLog, score
from replay_core import UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [(True, 1.0), (False, 0.0), (0, 0.0), (0.25, 0.25), (np.int64(1), 1.0), (np.bool_(True), 1.0)],
)
def test_numbers_and_truth_values_are_scores(given, expected, tmp_path):
    assert score(given, "hit", "set", 3, tmp_path) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (math.nan, "is nan"),
        (math.inf, "is inf"),
        (-math.inf, "is -inf"),
        (np.float64("nan"), "is nan"),
        (None, "is missing"),
        ("0.5", "is '0.5'"),
        ([1.0], r"is \[1.0\]"),
        ({"id": 3}, "is {'id': 3}"),
    ],
)
def test_anything_else_is_refused_where_it_stands(given, told, tmp_path):
    with pytest.raises(UsageError) as refused:
        score(given, "hit", "set", 3, tmp_path / "table.tsv")
    for part in ("metric 'hit' of task set", "for document 3", "table.tsv"):
        assert part in str(refused.value)
    assert refused.match(told)


def test_a_number_that_is_not_finite_is_no_number():
    assert number({"a": {"acc": 1}}, "a", "score") == 1.0
    assert number({"a": math.nan}, "a", "score") is None
    assert number({"a": {"score": math.inf}}, "a", "score") is None


def run(asked: list[str], scores: list[float] | None = None, **more) -> RunLog:
    values = scores or [1.0] * len(asked)
    items = {n: Item(s, asked=a) for n, (a, s) in enumerate(zip(asked, values, strict=True))}
    return RunLog("lmms-eval", "task", "acc", "file", items, {}, **more)


def test_rotations_of_a_question_are_one_cluster_and_other_options_another():
    tail = "\nAnswer the option letter directly."
    red = [
        f"What colour is it?\nA. {a}\nB. {b}{tail}" for a, b in (("red", "blue"), ("blue", "red"))
    ]
    green = [f"What colour is it?\nA. green\nB. red{tail}"]
    other = [f"What shape is it?\nA. red\nB. blue{tail}"]
    clusters = run([*red, *green, *other]).clusters("question")
    assert clusters[0] == clusters[1]
    assert len(set(clusters.values())) == 3


@pytest.mark.parametrize("reported", [0.6667, 66.67, 66.7, 2 / 3, None])
def test_the_harnesses_number_is_the_mean_as_a_fraction_or_in_percent(reported):
    assert run(["a", "b", "c"], [1.0, 1.0, 0.0], reported=reported).own_number is None


@pytest.mark.parametrize("reported", [0.5, 60.0, 0.665, 0.0])
def test_another_number_of_the_harness_is_told(reported):
    assert run(["a", "b", "c"], [1.0, 1.0, 0.0], reported=reported).own_number == reported
