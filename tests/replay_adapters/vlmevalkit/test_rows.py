"""Which rows of a set were asked for: the harness's own set classes, and what they drop."""

import base64
from types import SimpleNamespace

import pandas as pd
import pytest

from replay_adapters.vlmevalkit.rows import rows_of
from tests.support.unreadable import png

WHOLE = base64.b64encode(png(60, 40)).decode()
GIF = base64.b64encode(  # 43 bytes, the smallest that there is: 60 characters
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00"
    b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
).decode()


@pytest.fixture
def build(harness, tmp_path, monkeypatch):
    """Build a set of the harness from index → image cell."""
    from vlmeval.dataset import CustomMCQDataset, CustomVQADataset

    monkeypatch.setenv("LMUData", str(tmp_path))

    def built(cells, kind="mcq", **more):
        options = {"A": "one", "B": "two"} if kind == "mcq" else {}
        rows = [
            {"index": i, "image": cell, "question": f"{i}?", **options, "answer": "A"}
            for i, cell in cells
        ]
        pd.DataFrame(rows).to_csv(tmp_path / "mine.tsv", sep="\t", index=False)
        made = {"mcq": CustomMCQDataset, "vqa": CustomVQADataset}[kind]
        return made(dataset="mine", **more)

    return built


def line(index, outcome="applied"):
    return {"index": index, "replay": [{"outcome": outcome}]}


@pytest.mark.parametrize("kind", ["mcq", "vqa"])
def test_a_row_with_an_empty_image_cell_was_asked_and_is_not_answered(build, kind):
    dataset = build([(5, WHOLE), (9, None), (2, WHOLE), (7, "")], kind)
    assert list(dataset.data["index"]) == [5, 2]
    rows = rows_of(dataset, None, [line(5), line(2)])
    assert (rows.asked, rows.answered, rows.unanswered) == (4, 2, ["9", "7"])
    assert rows_of(dataset, None, None) == rows  # a model of the harness
    rows = rows_of(dataset, None, [line(2)])
    assert (rows.asked, rows.answered, rows.unanswered) == (4, 1, ["9", "7", 5])


def test_a_limit_asks_for_the_rows_up_to_its_last(build):
    dataset = build([(5, WHOLE), (9, None), (2, WHOLE), (7, ""), (1, WHOLE)])
    dataset.data = dataset.data.iloc[:2]  # as the harness does
    rows = rows_of(dataset, 2, [line(5), line(2)])
    assert (rows.asked, rows.unanswered) == (3, ["9"])
    dataset.data = dataset.data.iloc[:1]
    assert rows_of(dataset, 1, [line(5)]).unanswered == []


@pytest.mark.parametrize("cell", [GIF, "aGVsbG8=", "x", " "])
def test_a_short_image_cell_does_not_cost_the_set(build, cell):
    assert len(cell) <= 64
    dataset = build([(5, WHOLE), (9, cell)])
    assert list(dataset.data["index"]) == [5, 9]
    assert dataset.data["image"].iloc[1].rstrip() == cell.rstrip()


def test_the_smallest_picture_is_shown(build):
    dataset = build([(5, WHOLE), (9, GIF)])
    picture, question = dataset.build_prompt(1)
    assert picture["type"] == "image"
    from PIL import Image

    assert Image.open(picture["value"]).size == (1, 1)
    assert "9?" in question["value"]


def test_a_cell_that_names_another_row_still_does(build):
    dataset = build([(5, WHOLE), (9, "5"), (3, "11"), (11, None)])
    assert list(dataset.data["index"]) == [5, 9, 3]
    five, nine, three = dataset.data["image"]
    assert five == nine == WHOLE
    assert three.rstrip() == "11"  # whose row has none


def test_an_index_that_stands_twice_is_answered_once(build):
    dataset = build([(5, WHOLE), (9, WHOLE), (5, WHOLE), (5, WHOLE)])
    rows = rows_of(dataset, None, [line(5), line(9)])
    assert (rows.asked, rows.answered, rows.unanswered) == (4, 2, [5, 5])


def test_unreadable_rows_are_answered_and_named(build):
    dataset = build([(5, WHOLE), (9, WHOLE)])
    rows = rows_of(dataset, None, [line(9, "unreadable_input"), line(5)])
    assert (rows.asked, rows.answered, rows.unreadable) == (2, 2, [9])
    rows = rows_of(dataset, None, [line(9, "out_of_memory"), line(5, "failed")])
    assert (rows.answered, rows.faults) == (2, {"out_of_memory": [9], "failed": [5]})
    assert (rows.faulty, rows.unreadable) == (2, [])


def test_a_joined_set_counts_what_its_parts_drop(build):
    part = build([(5, WHOLE), (9, None)])
    joined = SimpleNamespace(
        data=pd.DataFrame({"index": [0, 1]}), dataset_map={"one": part, "two": part}
    )
    rows = rows_of(joined, None, [line(0), line(1)])
    assert (rows.asked, rows.unanswered) == (4, ["one:9", "two:9"])


def test_a_set_that_counts_its_rows_anew_is_taken_as_it_is(build):
    dataset = build([(5, WHOLE), (9, WHOLE)])
    dataset.data["index"] = [1, 2]
    assert rows_of(dataset, None, [line(1), line(2)]).unanswered == []


def test_upstream_still_drops_rows_where_this_was_written_for(harness):
    import inspect

    from vlmeval.dataset.image_base import ImageBaseDataset

    source = inspect.getsource(ImageBaseDataset.__init__)
    for fact in (
        "data = self.load_data(dataset)",
        "data = data[~pd.isna(data['image'])]",
        "if len(image_map[k]) <= 64:",
        "assert idx in image_map and len(image_map[idx]) > 64",
    ):
        assert fact in source, f"upstream changed ImageBaseDataset: no {fact!r}"
