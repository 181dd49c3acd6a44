"""A dataset whose pictures are broken is looked at all the same, and says which are."""

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

from replay_adapters.lmms_eval.documents import check, make_tolerant
from replay_adapters.media import UnreadableInput
from tests.support import media

SOUND = {"bytes": media.png((30, 20)), "path": "sound.png"}
GARBAGE = {"bytes": b"garbage", "path": "folder/garbage.png"}


def tolerant(features, rows) -> Dataset:
    made = Dataset.from_list(rows, Features(features))
    make_tolerant(made.info.features)
    return made


def test_sound_pictures_are_decoded_as_ever():
    rows = [{"picture": SOUND, "text": "a"}, {"picture": None, "text": "b"}]
    documents = tolerant({"picture": Image(), "text": Value("string")}, rows)
    assert isinstance(documents.features["picture"], Image)  # lmms-eval drops these to score
    check(documents[0])
    check(documents[1])
    assert documents[0]["picture"].size == (30, 20)
    assert documents[1] == {"picture": None, "text": "b"}


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        (Image(), GARBAGE),
        (List(Image()), [SOUND, GARBAGE]),
        ({"inner": Image()}, {"inner": GARBAGE}),
        (List({"inner": Image()}), [{"inner": SOUND}, {"inner": GARBAGE}]),
    ],
    ids=["column", "list", "structure", "list_of_structures"],
)
def test_a_broken_picture_is_grey_and_named(feature, value):
    documents = tolerant({"picture": feature}, [{"picture": value}])
    with pytest.raises(UnreadableInput, match=r"folder/garbage\.png: UnidentifiedImageError"):
        check(documents[0])


@pytest.mark.parametrize("content", [b"", media.bomb()], ids=["empty", "bomb"])
def test_a_picture_without_a_name_is_told_by_its_length(content):
    rows = [{"picture": {"bytes": content, "path": None}}]
    documents = tolerant({"picture": Image()}, rows)
    with pytest.raises(UnreadableInput, match=f"an image of {len(content)} bytes: "):
        check(documents[0])


def test_a_picture_of_the_tasks_own_is_not_taken_for_broken():
    check({"a": Pictures.new("RGB", (3, 3), "grey"), "b": [1, "x", None]})


def test_a_defect_while_decoding_is_raised(monkeypatch):
    documents = tolerant({"picture": Image()}, [{"picture": SOUND}])

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.open", full)
    with pytest.raises(OSError, match="No space left"):
        documents[0]
