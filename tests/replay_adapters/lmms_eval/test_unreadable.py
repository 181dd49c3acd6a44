"""Inputs that cannot be read through the real harness: an empty answer, scored, counted, named."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from replay_adapters.lmms_eval import unreadable
from replay_adapters.lmms_eval.unreadable import taken_back
from replay_adapters.media import UnreadableInput
from replay_adapters.session.session import Session
from replay_core import ReplayConfig, ReplayRecord
from tests.replay_adapters.conftest import REPLAY
from tests.replay_adapters.lmms_eval import media_tasks
from tests.support import media

CLIPS = "min_pixels=3136,max_pixels=12544,max_num_frames=8"
# The order of the documents; lmms-eval's chat classes answer them by number, as text.
MOVING = [
    *("seven", "cut", "long", "one", "sound", "sixteen"),
    *("empty", "three", "hole", "garbage", "cut_behind_its_index", "many frames"),
]
STILL = [
    *("garbage", "plain", "empty", "tall", "no pixels", "bomb"),
    *("drawn out", "drawn out by rounding", "wide", "declares 60000 by 60000"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks of clips, and of pictures that the task opens, a column's and a list's."""
    root = tmp_path_factory.mktemp("media")
    facts = {
        "seven": (7, 30),
        "long": (200, 25),
        "one": (1, 5),
        "sixteen": (16, 4),
        "three": (3, 2),
    }
    clips = {name: media.clip(root / f"{name}.mp4", *fact) for name, fact in facts.items()}
    clips |= media.broken_clips(root) | media.hostile_clips(root)
    documents = [media_tasks.document(n, files=[str(clips[name])]) for n, name in enumerate(MOVING)]
    media_tasks.make(root / "tasks", "odd_clips", "clips", documents)
    sound = {"plain": media.png(), "tall": media.png((56, 112), 1), "wide": media.png((140, 84), 2)}
    contents = {**media.broken_pictures(), **media.hostile_pictures(), **sound}
    opened, column, columns = [], [], []
    for number, name in enumerate(STILL):
        path = root / f"{name}.png"
        path.write_bytes(contents[name])
        cell = {"bytes": contents[name], "path": None}
        opened.append(media_tasks.document(number, files=[str(path)]))
        column.append(media_tasks.document(number, picture=cell))
        whole = {"bytes": sound["plain"], "path": None}
        columns.append(media_tasks.document(number, pictures=[whole, cell]))
    media_tasks.make(root / "tasks", "odd_files", "pictures", opened)
    media_tasks.make(root / "tasks", "odd_column", "column", column, "parquet")
    media_tasks.make(root / "tasks", "odd_columns", "columns", columns, "parquet")
    return root


@pytest.fixture(scope="module")
def ended(several_lmms_evals, tiny_pairs, folder):
    """Return the runs by name, all made in one process; the first three have two tasks each."""

    def given(family, *more):
        pair = tiny_pairs[family]
        return ",".join([f"pretrained={pair.policy},replay_base={pair.base}", *more])

    replay = f"{REPLAY},replay_steps=6"
    replayed = given("qwen2_5_vl", replay, "dtype=float32", CLIPS)
    kept = f"{replayed},replay_journal={folder / 'journal'}"
    none = given("qwen3_vl", "replay_method=none", CLIPS)
    base = given("qwen2_vl", "replay_method=base", "min_pixels=3136,max_pixels=50176")
    both, simple = "odd_clips,odd_column", "--force_simple"
    runs = {
        "threes": ("qwen2_5_vl_replay", kept, both, "--batch_size", "3"),
        "again": ("qwen2_5_vl_replay", kept, both, "--batch_size", "3"),
        "ones": ("qwen2_5_vl_replay", replayed, both, "--batch_size", "1"),
        "simple": ("qwen2_5_vl_replay", replayed, "odd_clips", "--batch_size", "4", simple),
        "prefetched": ("qwen3_vl_replay", none, "odd_clips", "--batch_size", "3", simple),
        "opened": ("qwen2_vl_replay", base, "odd_files", "--batch_size", "4"),
        "columns": ("llava_hf_replay", given("llava", replay), "odd_columns", simple),
    }
    tasks = ("--include_path", str(folder / "tasks"))
    made = several_lmms_evals([("ours", *run, *tasks) for run in runs.values()])
    return dict(zip(runs, made, strict=True))


def rows(run, task):
    """Return a task's samples in the documents' order."""
    (path,) = run.folder.rglob(f"*_samples_{task}.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def lost(run, task):
    """Return the numbers of the documents that have no answer, after looking at each of them."""
    assert run.code == 0, run.output
    numbers = []
    for number, row in enumerate(rows(run, task)):
        assert row["doc_id"] == number
        (record,) = row["replay"]
        if record["outcome"] == "unreadable_input":
            numbers.append(number)
            assert row["filtered_resps"] == ""
            assert row["even"] == 1.0  # what the task's scorer gives to an empty answer
            assert record["error"]
        else:
            assert row["filtered_resps"] != ""
            assert record["error"] is None
    return numbers


@pytest.mark.parametrize("name", ["threes", "ones", "simple", "prefetched"])
def test_a_broken_clip_is_its_samples_outcome(ended, folder, name):
    kinds = (*media.BROKEN_CLIPS, "many frames")
    broken = [n for n, clip in enumerate(MOVING) if clip in kinds]
    assert lost(ended[name], "odd_clips") == broken
    for number in broken:
        (record,) = rows(ended[name], "odd_clips")[number]["replay"]
        assert record["error"].startswith(f"{folder / MOVING[number]}.mp4: ")


@pytest.mark.parametrize(
    ("name", "task"),
    [("opened", "odd_files"), ("threes", "odd_column"), ("columns", "odd_columns")],
)
def test_a_broken_picture_is_its_samples_outcome(ended, folder, name, task):
    """Also the first document's, which the harness looks at to build the task."""
    broken = {"garbage", "empty", "no pixels", "bomb", "drawn out", "drawn out by rounding"}
    broken |= {"declares 60000 by 60000"}
    if name == "columns":  # LLaVA crops every picture to a square
        broken -= {"drawn out", "drawn out by rounding"}
    numbers = lost(ended[name], task)
    assert [STILL[number] for number in numbers] == [still for still in STILL if still in broken]
    if name == "opened":
        for number, still in enumerate(STILL[:6]):
            error = rows(ended[name], task)[number]["replay"][0]["error"]
            assert (error or "").startswith(f"{folder / still}.png: ") == (still in broken)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("threes", {"applied": 5 + 3, "unreadable_input": 7 + 7}),
        ("prefetched", {"off": 5, "unreadable_input": 7}),
        ("opened", {"off": 3, "unreadable_input": 7}),
    ],
)
def test_they_are_counted_whatever_the_method(ended, name, counts):
    totals = ended[name].results["replay"]["totals"]
    assert totals["outcomes"] == counts
    assert totals["n"] == sum(counts.values())


@pytest.mark.parametrize("task", ["odd_clips", "odd_column"])
def test_other_rows_of_a_batch_are_answered_as_alone(ended, task):
    for one, other in zip(rows(ended["threes"], task), rows(ended["ones"], task), strict=True):
        assert one["filtered_resps"] == other["filtered_resps"]
        (ours,), (alone,) = one["replay"], other["replay"]
        for field in ("outcome", "visual_tokens", "seed", "error"):
            assert ours[field] == alone[field]
        if ours["outcome"] == "applied":
            assert ours["loss_after"] == pytest.approx(alone["loss_after"], rel=1e-4)


def test_a_run_from_its_journal_is_the_same(ended, folder):
    for task in ("odd_clips", "odd_column"):
        first, again = rows(ended["threes"], task), rows(ended["again"], task)
        for one, other in zip(first, again, strict=True):
            assert one["filtered_resps"] == other["filtered_resps"]
            assert {**one["replay"][0], "seconds": 0} == {**other["replay"][0], "seconds": 0}
    lines = (folder / "journal").read_text("utf-8").splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys))  # nothing was answered twice


def guarded(make, strict=False):
    settings = SimpleNamespace(config=ReplayConfig(strict=strict))
    model = SimpleNamespace(settings=settings, is_simple=True)
    session = Session(model, looked_up=[("task", 3)])
    request = SimpleNamespace(arguments=("question", {}, make, 3, "task", "test"))
    return session.faults, unreadable.guarded(session, request, chat=False).arguments[2]


def test_a_defect_of_a_tasks_code_still_ends_the_run():
    def make(document):
        return document["picture"].convert("RGB")

    notes, checked = guarded(make)
    with pytest.raises(AttributeError):
        checked({"picture": None})
    with pytest.raises(KeyError):
        checked({})
    assert notes == {}


def test_a_sound_document_is_given_through_and_decoded_once():
    picture = Image.open(io.BytesIO(media.png()))
    _, checked = guarded(lambda document: [picture])
    (given,) = checked({})
    assert given is picture


def test_each_kind_of_visual_is_looked_at(monkeypatch):
    seen = []
    paths = ["http://host/a.jpg", "folder/what.jpg"]  # which simple classes take no notice of
    notes, checked = guarded(lambda document: [[Image.new("RGB", (5, 5))], *paths])
    assert len(checked({})) == 3
    assert notes == {}
    notes, checked = guarded(lambda document: ["folder/gone.mp4"])
    checked({})
    assert notes == {("task", 3): "folder/gone.mp4: there is no such file"}
    monkeypatch.setattr(unreadable, "check_for_class", lambda model, visual: seen.append(visual))
    notes, checked = guarded(lambda document: [Image.new("RGB", (5, 5))])
    checked({})
    assert seen[0].size == (5, 5)
    notes, checked = guarded(lambda document: [[Image.new("RGB", (0, 5))]])
    assert checked({})[0].size == (56, 56)
    assert notes == {("task", 3): "an image: it has 0 by 5 pixels"}
    _, checked = guarded(lambda document: [Image.new("RGB", (0, 5))], strict=True)
    with pytest.raises(UnreadableInput, match="document 3 of task: an image: it has 0 by 5"):
        checked({})


def test_answers_to_a_stand_in_are_taken_back():
    prompt = torch.tensor([[1, 2], [3, 4]])
    output = torch.tensor([[1, 2, 7, 8], [3, 4, 9, 9]])
    ours, theirs = (
        ReplayRecord(
            pair="p",
            policy_revision="a",
            base_revision="b",
            config_hash="c",
            versions={},
            method="replay",
            outcome=outcome,
        )
        for outcome in ("applied", "unreadable_input")
    )
    ids, records = taken_back(output, [ours, ours], prompt, [None, theirs], 0)
    assert ids.tolist() == [[1, 2, 7, 8], [3, 4, 0, 0]]
    assert records == [ours, theirs]
    assert output[1].tolist() == [3, 4, 9, 9]  # what the journal keeps
    ids, records = taken_back(prompt, [], prompt, [theirs, theirs], 0)
    assert ids.tolist() == prompt.tolist()
    assert records == [theirs, theirs]
    ids, records = taken_back(output, [ours, ours], prompt, [None, None], 0)
    assert ids.tolist() == output.tolist()
