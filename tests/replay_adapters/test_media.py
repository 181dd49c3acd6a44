"""Which exceptions say that a picture or clip cannot be read, and which are somebody's defect."""

import errno
import io

import pytest
from PIL import Image

from replay_adapters.media import (
    UnreadableInput,
    check_clip,
    check_picture,
    is_fault,
    reading,
    told,
)
from tests.support import media


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return media.broken_clips(tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sound", "it has sound, but no picture"),
        ("cut", "InvalidDataError: Invalid data found when processing input"),
        ("empty", "InvalidDataError: Invalid data found when processing input"),
        ("garbage", "InvalidDataError: Invalid data found when processing input"),
    ],
)
def test_a_broken_clip_is_named_with_what_is_wrong(clips, name, why):
    with pytest.raises(UnreadableInput) as caught:
        check_clip(str(clips[name]))
    assert str(caught.value) == f"{clips[name]}: {why}"


def test_a_clip_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreadableInput, match=r"gone\.mp4: there is no such file"):
        check_clip(str(tmp_path / "gone.mp4"))


def test_sound_clips_pass_whatever_their_length(tmp_path):
    for frames in (1, 2, 3):
        check_clip(str(media.clip(tmp_path / f"{frames}.mp4", frames, 7)))


@pytest.mark.parametrize("name", ["empty", "garbage", "cut png", "cut jpeg", "no pixels", "bomb"])
def test_a_broken_picture_is_named_by_its_file(tmp_path, monkeypatch, name):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", False)  # lmms-eval sets it
    path = tmp_path / f"{name}.img"
    path.write_bytes(media.broken_pictures()[name])
    with pytest.raises(UnreadableInput) as caught, reading():
        Image.open(path).convert("RGB")
    assert str(caught.value).startswith(f"{path}: ")
    assert "0x" not in str(caught.value)


def test_a_picture_is_decoded_and_must_have_pixels(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", False)
    check_picture(Image.open(io.BytesIO(media.png())))
    with pytest.raises(UnreadableInput, match="an image: it has 0 by 5 pixels"):
        check_picture(Image.new("RGB", (0, 5)))
    with pytest.raises(UnreadableInput, match=r"p\.png: OSError: image file is truncated"):
        check_picture(Image.open(io.BytesIO(media.broken_pictures()["cut png"])), "p.png")


def python_fault() -> Exception:
    try:
        compile("1 +", "a_task.py", "eval")
    except SyntaxError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
        ConnectionError("a download failed"),
        KeyError("image"),
        ValueError("a task's own"),
        AttributeError("'NoneType' object has no attribute 'convert'"),
        MemoryError(),
        python_fault(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_defect_of_code_or_machine_stays_what_it_is(error):
    assert not is_fault(error)
    with pytest.raises(type(error)), reading():
        raise error


def test_what_is_told_is_the_same_at_every_run():
    text = (
        "[22:55:25] /github/workspace/src/video/ffmpeg/threaded_decoder.cc:218: Check failed: "
        "avcodec_send_packet(a, b) >= 0 (-1094995529 vs. 0) Thread worker: Error sending packet.\n"
    )
    assert told(RuntimeError(text)) == (
        "RuntimeError: avcodec_send_packet(a, b) >= 0 Thread worker: Error sending packet."
    )
    assert told(StopIteration()) == "StopIteration"
