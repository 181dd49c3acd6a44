"""The task of the embedded video pair: nothing but the order of the frames tells the answer."""

import importlib.util
import io
import json

import numpy as np
import pytest
from decord import VideoReader

from replay_adapters.settings.resources import resource

FOLDER = resource("tasks") / "replay_clips"
HALF = 500  # clips that a guesser learns from, and as many that it is judged on
CLOCKWISE = ["top-left", "top-right", "bottom-right", "bottom-left"]


@pytest.fixture(scope="module")
def task():
    spec = importlib.util.spec_from_file_location("replay_clips", FOLDER / "replay_clips.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(task):
    """Clips' coarse pixels (2 * HALF, 8 frames, 8 * 8 * 3), as a reader of the mp4s sees them.

    All shapes are as clear as a shape can be, so that what frames tell is easily found.
    """
    rng = np.random.default_rng(7)
    clips = task.sample_clips(rng, 2 * HALF, (0,))
    clips = [clip._replace(strength=task.STRENGTH[1]) for clip in clips]
    frames = np.stack([read(io.BytesIO(task.encoded(task.render(c, rng)))) for c in clips])
    coarse = frames.reshape(-1, 8, 8, 7, 8, 7, 3).mean((3, 5)).reshape(len(clips), 8, -1)
    coarse -= coarse[:HALF].mean((0, 1))
    return coarse / coarse[:HALF].std(), np.array([1 - 2 * clip.way for clip in clips])


def read(file):
    return VideoReader(file)[:].asnumpy().astype(np.float32)


def documents(split):
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text().splitlines()]


def guessed(features, ways):
    """Share of the second half that kernel ridge regression on the first half guesses right."""
    flat = features.reshape(len(features), -1)
    flat = flat / np.sqrt((flat[:HALF] ** 2).sum(1).mean())
    kernel = (1 + flat @ flat[:HALF].T) ** 2  # sees what two frames' pixels have in common
    weights = np.linalg.solve(kernel[:HALF] + 0.1 * np.eye(HALF), ways[:HALF])
    return np.mean(np.sign(kernel[HALF:] @ weights) == ways[HALF:])


def test_no_single_frame_tells_the_way(drawn):
    coarse, ways = drawn
    assert max(guessed(coarse[:, frame], ways) for frame in range(8)) <= 0.55


def test_no_set_of_frames_without_their_order_tells_the_way(drawn):
    coarse, ways = drawn
    assert guessed(coarse.mean(1), ways) <= 0.55
    assert guessed(np.sort(coarse, axis=1), ways) <= 0.55


def test_the_first_and_the_last_frame_tell_the_way(drawn):
    """The same guesser, so that it is able to."""
    coarse, ways = drawn
    assert guessed(coarse[:, [0, -1]], ways) > 0.9


def test_what_stands_where_and_when_says_nothing_of_the_way(task):
    """Best guesses from all that a frame shows, learnt on half of 6,000 clips."""
    clips = task.sample_clips(np.random.default_rng(1), 6_000, (0,))
    corners = np.array([clip.corners() for clip in clips])
    ways = np.array([clip.way for clip in clips])
    contents = np.array([clip.content for clip in clips])
    several = (corners[:, :, None] == np.arange(4)).sum(1)
    shown = [corners[:, [frame]] for frame in range(task.FRAMES)] + [several]
    for found in shown:
        assert best_guess(np.column_stack([contents, found]), ways) <= 0.55
    assert best_guess(corners[:, [0, -1]], ways) == 1


def best_guess(keys, ways):
    names = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    half = len(ways) // 2
    share = np.bincount(names[:half], ways[:half], names.max() + 1)
    share = share / np.maximum(1, np.bincount(names[:half], minlength=names.max() + 1))
    return np.mean((share[names[half:]] > 0.5) == ways[half:])


def test_clips_show_what_their_documents_say():
    """First and last corner, found as where the frames differ most from the median frame.

    Of the faintest shapes the codec leaves nothing.
    """
    docs = documents("test")
    clips = np.stack([read(str(FOLDER / doc["video"])) for doc in docs])
    assert clips.shape == (240, 8, 56, 56, 3)
    spots = clips[:, [0, -1]] - np.median(clips, axis=(0, 1))
    cells = np.abs(spots).sum(-1).reshape(-1, 2, 2, 28, 2, 28).sum((3, 5)).reshape(-1, 2, 4)
    rows = ["top-left", "top-right", "bottom-left", "bottom-right"]
    seen = [[rows[number] for number in found] for found in cells.argmax(-1)]
    assert np.mean([found == doc["corners"] for found, doc in zip(seen, docs, strict=True)]) > 0.9
    for doc in docs:
        first, last = (CLOCKWISE.index(corner) for corner in doc["corners"])
        assert doc["answer"] == {1: "A", 3: "B"}[(last - first) % 4]


def test_the_files_are_what_the_seed_gives(task):
    """As far as the codec keeps it: means of 7 x 7 pixels, as other encoders keep them too."""
    seed, count, fold = task.SPLITS["test"]
    rng = np.random.default_rng(seed)
    clips = task.sample_clips(rng, count, (fold,))
    for clip, doc in zip(clips[:20], documents("test"), strict=False):
        lost = read(str(FOLDER / doc["video"])) - task.render(clip, rng)
        assert np.abs(lost.reshape(8, 8, 7, 8, 7, 3).mean((2, 4))).max() < 12


def test_splits_are_of_folds_that_training_does_not_see(task):
    for split, (_, count, fold) in task.SPLITS.items():
        assert len(documents(split)) == count
        assert fold not in task.demo.TRAIN_FOLDS
    assert len({fold for *_, fold in task.SPLITS.values()}) == 2
    for fold in (0, 1):
        clips = task.sample_clips(np.random.default_rng(2), 50, (fold,))
        assert {clip.fold for clip in clips} == {fold}
    backwards = [c._replace(start=c.end, way=1 - c.way, jump=task.FRAMES - c.jump) for c in clips]
    assert [clip.fold for clip in backwards] == [clip.fold for clip in clips]


def test_the_letter_is_scored(task):
    doc = documents("test")[0]
    wrong = {"A": "B", "B": "A"}[doc["answer"]]
    for said, score in [
        (doc["answer"], 1),
        (wrong, 0),
        ("", 0),
        (f"<think>{wrong}</think><answer> {doc['answer']} </answer>", 1),
    ]:
        assert task.process_results(doc, [said]) == {"accuracy": score}
