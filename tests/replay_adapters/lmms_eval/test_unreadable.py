"""Inputs that cannot be read through the real harness: an empty answer, scored, counted, named."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from replay_adapters.lmms_eval.unreadable import Unreadable, taken_back
from replay_adapters.media import UnreadableInput
from replay_core import ReplayRecord
from tests.replay_adapters.conftest import REPLAY
from tests.replay_adapters.lmms_eval import media_tasks
from tests.support import media

CLIPS = "min_pixels=3136,max_pixels=12544,max_num_frames=8"
PICTURES = "min_pixels=3136,max_pixels=50176"
# The order of the documents; lmms-eval's chat classes answer them by number, as text.
MOVING = [
    *("seven", "cut", "long", "one", "sound", "sixteen"),
    *("empty", "three", "hole", "garbage", "cut_behind_its_index"),
]
STILL = [
    *("garbage", "plain", "empty", "tall", "no pixels", "bomb"),
    *("drawn out", "drawn out by rounding", "wide"),
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
    clips |= media.broken_clips(root)
    documents = [media_tasks.document(n, files=[str(clips[name])]) for n, name in enumerate(MOVING)]
    media_tasks.make(root / "tasks", "odd_clips", "clips", documents)
    sound = {"plain": media.png(), "tall": media.png((56, 112), 1), "wide": media.png((140, 84), 2)}
    contents = {**media.broken_pictures(), **sound}
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
    """Return the runs by name, all made in one process."""

    def given(family, *more):
        pair = tiny_pairs[family]
        return ",".join([f"pretrained={pair.policy},replay_base={pair.base}", *more])

    tasks = ("--include_path", str(folder / "tasks"))
    replayed = given("qwen2_5_vl", REPLAY, "dtype=float32", CLIPS)
    journal = f"replay_journal={folder / 'journal'}"
    runs = {
        "threes": ("qwen2_5_vl_replay", f"{replayed},{journal}", "odd_clips", "--batch_size", "3"),
        "again": ("qwen2_5_vl_replay", f"{replayed},{journal}", "odd_clips", "--batch_size", "3"),
        "ones": ("qwen2_5_vl_replay", replayed, "odd_clips", "--batch_size", "1"),
        "simple": (
            "qwen2_5_vl_replay",
            replayed,
            "odd_clips",
            "--batch_size",
            "4",
            "--force_simple",
        ),
        "none": (
            "qwen3_vl_replay",
            given("qwen3_vl", "replay_method=none", CLIPS),
            *("odd_clips", "--batch_size", "3"),
        ),
        "prefetched": (
            "qwen3_vl_replay",
            given("qwen3_vl", "replay_method=none", CLIPS),
            *("odd_clips", "--batch_size", "3", "--force_simple"),
        ),
        "opened": (
            "qwen2_vl_replay",
            given("qwen2_vl", "replay_method=base", PICTURES),
            *("odd_files", "--batch_size", "4"),
        ),
        "column": (
            "qwen2_5_vl_replay",
            given("qwen2_5_vl", REPLAY, "dtype=float32", PICTURES),
            *("odd_column", "--batch_size", "2"),
        ),
        "columns": ("llava_hf_replay", given("llava", REPLAY), "odd_columns", "--force_simple"),
        "strict": (
            "qwen2_5_vl_replay",
            given("qwen2_5_vl", "replay_method=none,replay_strict=true", PICTURES),
            "odd_files",
        ),
    }
    made = several_lmms_evals([("ours", *run, *tasks) for run in runs.values()])
    return dict(zip(runs, made, strict=True))


def outcomes(run) -> dict[int, str]:
    return {document: row["replay"][0]["outcome"] for document, row in run.samples.items()}


@pytest.mark.parametrize("name", ["threes", "ones", "simple", "none", "prefetched"])
def test_a_broken_clip_is_its_samples_outcome(ended, folder, name):
    run = ended[name]
    assert run.code == 0, run.output
    broken = [n for n, clip in enumerate(MOVING) if clip in media.BROKEN_CLIPS]
    assert [n for n, outcome in outcomes(run).items() if outcome == "unreadable_input"] == broken
    for number in broken:
        row = run.samples[number]
        assert row["filtered_resps"] == ""
        assert row["even"] == 1.0  # what the task's scorer gives to an empty answer
        (record,) = row["replay"]
        assert str(folder / f"{MOVING[number]}.mp4") in record["error"]
    for number in set(range(len(MOVING))) - set(broken):
        assert run.samples[number]["filtered_resps"] != ""
        assert run.samples[number]["replay"][0]["error"] is None
    other = "off" if name in ("none", "prefetched") else "applied"
    totals = run.results["replay"]["totals"]
    assert totals["outcomes"] == {"unreadable_input": len(broken), other: 5}
    assert totals["n"] == len(MOVING)


def test_other_rows_of_a_batch_are_answered_as_alone(ended):
    assert ended["threes"].answers == ended["ones"].answers
    for one, other in zip(ended["threes"].records, ended["ones"].records, strict=True):
        assert one["visual_tokens"] == other["visual_tokens"]
        assert one["seed"] == other["seed"]
        if one["outcome"] == "applied":
            assert one["loss_after"] == pytest.approx(other["loss_after"], rel=1e-4)


def test_a_run_from_its_journal_is_the_same(ended, folder):
    first, again = ended["threes"], ended["again"]
    assert again.answers == first.answers
    drop = {"seconds"}
    for one, other in zip(first.records, again.records, strict=True):
        assert {k: v for k, v in one.items() if k not in drop} == {
            k: v for k, v in other.items() if k not in drop
        }
    lines = [json.loads(line) for line in (folder / "journal").read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines})  # none was answered twice


@pytest.mark.parametrize("name", ["opened", "column", "columns"])
def test_a_broken_picture_is_its_samples_outcome(ended, folder, name):
    """Also the first document's, which the harness looks at to build the task."""
    run = ended[name]
    assert run.code == 0, run.output
    drawn_out = {"drawn out", "drawn out by rounding"} if name != "columns" else set()
    broken = {"garbage", "empty", "no pixels", "bomb"} | drawn_out  # LLaVA crops to a square
    lost = [n for n, outcome in outcomes(run).items() if outcome == "unreadable_input"]
    assert [STILL[number] for number in lost] == [still for still in STILL if still in broken]
    for number in lost:
        assert run.samples[number]["filtered_resps"] == ""
        error = run.samples[number]["replay"][0]["error"]
        if name == "opened" and STILL[number] not in drawn_out:
            assert error.startswith(f"{folder / STILL[number]}.png: ")
    assert all(run.answers[n] != "" for n in set(run.answers) - set(lost))


def test_strict_raises_and_names_the_document(ended):
    run = ended["strict"]
    assert run.code == 1
    assert not list(run.folder.rglob("*_results.json"))
    assert "unreadable input, document" in run.output.rpartition("lmms_eval: failed: ")[2]


def guarded(make, strict=False, check=lambda visual: None):
    notes = Unreadable([("task", 3)], check, strict=strict)
    request = SimpleNamespace(arguments=("question", {}, make, 3, "task", "test"))
    return notes, notes.guarded(request, chat=False).arguments[2]


def test_a_defect_of_a_tasks_code_still_ends_the_run():
    def make(document):
        return document["picture"].convert("RGB")

    notes, checked = guarded(make)
    with pytest.raises(AttributeError):
        checked({"picture": None})
    with pytest.raises(KeyError):
        checked({})
    assert notes.of([("task", 3)]) == [None]


def test_a_sound_document_is_given_through_and_decoded_once():
    picture = Image.open(io.BytesIO(media.png()))
    _, checked = guarded(lambda document: [picture])
    (given,) = checked({})
    assert given is picture


def test_each_kind_of_visual_is_looked_at():
    seen = []
    _, checked = guarded(lambda document: [[Image.new("RGB", (5, 5))], "http://host/a.mp4"])
    assert len(checked({})) == 2
    notes, checked = guarded(lambda document: [Image.new("RGB", (5, 5))], check=seen.append)
    checked({})
    assert seen[0].size == (5, 5)
    notes, checked = guarded(lambda document: [[Image.new("RGB", (0, 5))]])
    assert checked({})[0].size == (56, 56)
    assert notes.of([("task", 3), ("task", 4)]) == ["an image: it has 0 by 5 pixels", None]
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
