"""The embedded task: scenes by seed, splits without a common grid, known ambiguity."""

import importlib.util
import math

import numpy as np
import pytest

from replay_adapters.settings.resources import resource

FILE = resource("tasks") / "replay_demo" / "replay_demo.py"


@pytest.fixture(scope="module")
def task():
    spec = importlib.util.spec_from_file_location("replay_demo", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_follow_from_the_seed_alone(task):
    spec = {"split": "x", "count": 3, "fold": 0}
    first, again = task.split_docs(seed=5, **spec), task.split_docs(seed=5, **spec)
    other = task.split_docs(seed=6, **spec)
    for one, two in zip(first, again, strict=True):
        assert one["question"] == two["question"]
        assert np.array_equal(np.asarray(one["image"]), np.asarray(two["image"]))
    assert any(
        not np.array_equal(np.asarray(one["image"]), np.asarray(two["image"]))
        for one, two in zip(first, other, strict=True)
    )


def test_no_grid_of_one_fold_can_occur_in_another(task):
    rng = np.random.default_rng(0)
    for folds in ((0,), (1,), task.TRAIN_FOLDS):
        contents = task.sample_scenes(rng, 200, folds).contents
        assert set(task.fold_of(contents)) <= set(folds)


def test_the_share_of_the_other_kind_has_the_stated_density(task):
    """Mean of exp(-k s) on 0..1 by hand; and beyond one half as often as its integral says."""
    k = task.SHARPNESS
    weights = task._blend(np.random.default_rng(0), np.full(200_000, 2), 4)
    assert np.allclose(weights.sum(-1), 1)
    assert ((weights > 0).sum(-1) <= 2).all()
    share = 1 - weights[:, 2]
    mean = 1 / k - math.exp(-k) / (1 - math.exp(-k))
    assert share.mean() == pytest.approx(mean, abs=0.002)
    beyond = (math.exp(-k / 2) - math.exp(-k)) / (1 - math.exp(-k))
    assert (share > 0.5).mean() == pytest.approx(beyond, abs=0.002)


def test_an_empty_cell_shows_background_and_noise_only(task):
    rng = np.random.default_rng(3)
    scenes = task.sample_scenes(rng, 50, (0,))
    cells = task.render(scenes, rng).reshape(50, 4, task.CELL, 4, task.CELL, 3)
    means = cells.transpose(0, 1, 3, 2, 4, 5).reshape(50, 4, 4, -1, 3).mean(3)
    away = np.abs(means - task.BACKGROUND).max(-1)
    assert (away[scenes.contents == 0] < 3).all()
    # Opposite colours can blend to grey, but not often.
    assert (away[scenes.contents > 0] > 10).mean() > 0.95


def test_a_right_worked_answer_scores_and_a_wrong_one_does_not(task):
    rng = np.random.default_rng(4)
    contents = task.sample_scenes(rng, 1, (0,)).contents[0]
    for kind in task.QUESTION_TYPES:
        question = task.ask(rng, contents, kind)
        thought, answer = task.conclude(kind, question.evidence)
        text = f"<think>{thought}</think><answer>{answer}</answer>"
        assert task.score(text, question.answer) == 1
        assert task.score(text.replace(answer, "never"), question.answer) == 0
