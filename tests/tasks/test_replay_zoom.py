"""The task of the embedded agent: what it hides, where, and that its splits do not overlap."""

import importlib.util
import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from replay_adapters.settings.resources import resource

FOLDER = resource("tasks") / "replay_zoom"


@pytest.fixture(scope="module")
def task():
    spec = importlib.util.spec_from_file_location("replay_zoom", FOLDER / "replay_zoom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def splits():
    return [json.loads((FOLDER / "splits" / f"{n}.json").read_text()) for n in ("test", "dev")]


def drawn(task, pattern, seed=3):
    """One scene with a given pattern, twice the same but for it."""
    rng = np.random.default_rng(seed)
    (scene,) = task.sample_scenes(rng, 1, (0,))
    patterns = np.full_like(scene.patterns, task.PATTERNS.index(pattern))
    return scene, task.render(scene._replace(patterns=patterns), np.random.default_rng(seed))


def test_a_pattern_is_gone_as_shown_and_there_in_the_crop(task):
    pictures = {name: drawn(task, name) for name in task.PATTERNS}
    (scene, _) = pictures["checked"]
    row, column = np.argwhere(scene.contents > 0)[0]
    box = task.shown_box(row, column)
    for (_, first), (_, second) in pairwise(pictures.values()):
        shown = [
            np.asarray(one.resize((112, 112), Image.Resampling.BICUBIC), float)
            for one in (first, second)
        ]
        crops = [np.asarray(one.crop([4 * edge for edge in box]), float) for one in (first, second)]
        assert np.abs(shown[0] - shown[1]).mean() < 1.5
        assert np.abs(crops[0] - crops[1]).mean() > 15


def test_documents_ask_about_what_stands_in_their_box(task):
    test, _ = splits()
    docs = task.split_docs(**{**test, "count": 20})
    assert {doc["answer"] for doc in docs} == set(task.PATTERNS)
    for doc in docs:
        left, top, right, bottom = doc["box"]
        pixels = np.asarray(doc["image"], float)
        inside = pixels[4 * top : 4 * bottom, 4 * left : 4 * right]
        assert inside.std() > 1.3 * np.median([cell.std() for cell in cells(pixels)])
        assert doc["question"] == "What pattern is on the shape?"


def cells(pixels):
    return [
        pixels[y : y + 112, x : x + 112] for y in range(0, 448, 112) for x in range(0, 448, 112)
    ]


def test_splits_are_of_folds_that_training_does_not_see(task):
    folds = [split["fold"] for split in splits()]
    assert folds == [0, 1]
    assert not set(folds) & set(task.demo.TRAIN_FOLDS)
    for split in splits():
        rng = np.random.default_rng(split["seed"])
        scenes = task.sample_scenes(rng, 30, (split["fold"],))
        assert {int(task.demo.fold_of(s.contents[None])[0]) for s in scenes} == {split["fold"]}


def test_the_same_seed_gives_the_same_documents(task):
    test, _ = splits()
    first, again = (task.split_docs(**{**test, "count": 3}) for _ in range(2))
    assert [doc["image"].tobytes() for doc in first] == [doc["image"].tobytes() for doc in again]
