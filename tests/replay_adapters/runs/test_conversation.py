"""One conversation out of a run's files, listed and drawn."""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from replay_adapters.cli import app
from replay_adapters.runs.conversation import conversations, drawn, listing
from replay_core import UsageError
from tests.support.lmms_eval_files import write_run

RECORD = MappingProxyType(
    {
        "outcome": "applied",
        "method": "replay",
        "loss_before": 0.5,
        "loss_after": 0.25,
        "visual_tokens": 54,
        "new_tokens": 7,
        "finish_reason": "stop",
        "truncated": False,
        "seed": 3,
        "tool": None,
        "answer": None,
    }
)
ZOOM = {"box": [1.5, 2, 30, 40], "crop": [100, 50, 300, 150], "size": [196, 112], "told": None}


def turns(*more: dict) -> list[dict]:
    return [{**RECORD, "turn": number, **one} for number, one in enumerate(more)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of lmms-eval with two documents, the second asked twice."""
    one = turns({"response": "a " * 900, "tool": ZOOM}, {"response": "<b>", "answer": "b"})
    told = {"box": [5, 5, 1, 1], "crop": None, "size": None, "told": "It has no area."}
    other = turns({"response": "c", "tool": told}, {"response": "", "answer": ""})
    rows = [{"accuracy": 1.0, "replay": one}, {"accuracy": 0.0, "replay": [*other, *one]}]
    write_run(tmp_path, rows, task="deepeyes_vstar")
    return tmp_path


def test_a_conversation_is_told_turn_by_turn(run):
    (found,) = conversations(run, None, None)
    lines = list(listing(found))
    assert lines[0] == "deepeyes_vstar, document 0: 2 turns, score 1"
    assert lines[1].startswith("turn 0: applied, masked KL 0.5 to 0.25 nats, 54 visual tokens, 7 ")
    assert len(lines[2]) < 450
    assert lines[2].startswith("  wrote   a a")
    assert "[1.5, 2, 30, 40], in pixels of the image as it was shown" in lines[3]
    assert lines[4].endswith("[100, 50, 300, 150] of the original image, shown as 196 by 112")
    assert lines[-1] == "  answer  b"


def test_repeats_are_conversations_of_their_own(run):
    found = conversations(run, "deepeyes_vstar", "1")
    assert [len(one.turns) for one in found] == [2, 2]
    text = "\n".join(listing(found[0]))
    assert "told    It has no area." in text
    assert "answer  (none)" in text
    assert [one.crops for one in found] == [[], [(0, (100, 50, 300, 150))]]


def test_boxes_and_crops_are_drawn(run):
    (found,) = conversations(run, None, "0")
    image = Image.new("RGB", (600, 400), "white")
    page = np.asarray(drawn(found, image))
    assert page.shape == (400 + 8 + 240, 600, 3)  # the crop, 2 to 1, below the image
    assert page[50, 100].tolist() == page[149, 299].tolist() == [255, 0, 0]
    assert page[100, 200].tolist() == page[50, 50].tolist() == [255, 255, 255]
    assert page[408, 479].tolist() == [255, 0, 0]


def test_the_command_lists_and_draws(run, tmp_path):
    Image.new("RGB", (600, 400), "white").save(tmp_path / "image.png")
    words = ["conversation", str(run), "--picture", str(tmp_path / "page.png")]
    told = CliRunner().invoke(app, [*words, "--image", str(tmp_path / "image.png")])
    assert told.exit_code == 0, told.output
    assert "turn 1: applied" in told.output
    assert Image.open(tmp_path / "page.png").size == (600, 648)


@pytest.mark.parametrize(
    ("task", "document", "says"),
    [("deepeyes_vstar", "7", "--document 7 is none of task"), ("x", None, "holds no run of x")],
)
def test_what_is_not_there_is_named(run, task, document, says):
    with pytest.raises(UsageError, match=says):
        conversations(run, task, document)


def test_a_run_without_turns_is_named(tmp_path):
    write_run(tmp_path, [{"accuracy": 1.0, "replay": [{**RECORD, "response": "a"}]}], task="mmmu")
    with pytest.raises(UsageError, match="holds no run with conversations"):
        conversations(tmp_path, None, None)
