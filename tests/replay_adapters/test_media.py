"""Which exceptions say that a picture or clip cannot be read, and which are somebody's defect."""

import errno
import io
import random
import subprocess
import sys

import pytest
from PIL import Image

from replay_adapters.lmms_eval.documents import TolerantImage, check
from replay_adapters.media import (
    UnreadableInput,
    check_clip,
    check_header,
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


# --- hostile ones -------------------------------------------------------------------------------

HOSTILE = """
import io, resource, sys
from pathlib import Path
import av, decord
from PIL import Image
from replay_adapters.lmms_eval.documents import TolerantImage, check
from replay_adapters.media import UnreadableInput, check_clip, check_picture, reading
from replay_adapters.media import let_decord_read_headers_first
from tests.support import media

def told(read):
    try:
        read()
    except UnreadableInput as error:
        return str(error)
    except RuntimeError as error:
        return str(error) if str(error).startswith("Error reading ") else repr(error)
    return "read"

def opened(content):
    with reading():
        Image.open(io.BytesIO(content)).convert("RGB")

pictures, clips = media.hostile_pictures(), media.hostile_clips(Path(sys.argv[1]))
let_decord_read_headers_first()
let_decord_read_headers_first()
Image.MAX_IMAGE_PIXELS = int(sys.argv[2]) or None  # as upstream sets it
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, content in pictures.items():
    cell = {"bytes": content, "path": None}
    print(name, "|", told(lambda: opened(content)))
    print(name, "|", told(lambda: check(TolerantImage().decode_example(cell))))
for name, path in clips.items():
    print(name, "|", told(lambda: check_clip(str(path))))
    print(name, "|", told(lambda: decord.VideoReader(str(path))))
print("more", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """What a process of its own makes of them, under PIL's limit: name → sentences; and MB."""
    folder = tmp_path_factory.mktemp("hostile")
    words = [sys.executable, "-c", HOSTILE, str(folder), str(1024**3 // 4 // 3)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]  # decord would end the process
    *lines, last = ended.stdout.splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, told_of_it = line.partition(" | ")
        found.setdefault(name, []).append(told_of_it)
    return found, int(last.removeprefix("more ")), folder


def test_hostile_headers_are_that_inputs_fault(hostile):
    found, _, folder = hostile
    assert found.keys() == {*media.hostile_pictures(), "many frames", "large frames"}
    for name in ("declares 60000 by 60000", "bitmap"):
        assert all("DecompressionBombError" in sentence for sentence in found[name])
    for name in ("text of 500 MB", "profile of 500 MB"):
        assert all("ValueError: Decompressed data too large" in one for one in found[name])
    assert all("Ghostscript" in sentence for sentence in found["postscript"])
    many, large = folder / "many frames.mp4", folder / "large.mp4"
    size = many.stat().st_size
    declared = f"{many}: its {size} bytes declare {2**32 - 2} frames"
    assert found["many frames"] == [declared, f"Error reading {declared}"]
    wide = f"{large}: its frames have 8176 by 4352 pixels, more than 33177600"
    assert found["large frames"] == [wide, f"Error reading {wide}"]


def test_hostile_headers_take_no_memory(hostile):
    _, more, _ = hostile
    assert more < 200  # megabytes; the smallest of them would take 500


def test_no_more_pixels_are_decoded_than_by_pillows_own_limit(monkeypatch):
    """Some tasks of lmms-eval, and VLMEvalKit, let a billion pass."""
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10**9)
    picture = Image.open(io.BytesIO(media.bomb()))
    with pytest.raises(UnreadableInput, match=r"it has 14000 by 14000 pixels, more than 178956970"):
        check_picture(picture)


def test_a_title_in_another_encoding_is_no_fault(tmp_path):
    check_clip(str(media.titled(tmp_path / "a.mp4", b"caf\xe9 \xff\xff")))
    check_header(str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF", "DDS"]
)
def test_whatever_a_decoder_raises_is_the_pictures_fault(kind):
    """Three hundred damaged files of each kind: read, or refused, never another exception."""
    whole, rng = media.saved(Image.open(io.BytesIO(media.png((30, 20)))), kind), random.Random(kind)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            content[rng.randrange(min(len(content), 400))] = rng.choice((0, 255, 128, 9))
        for read in (_opened, _decoded):
            try:
                read(bytes(content))
            except UnreadableInput:
                refused += 1
    assert refused > 20


def _opened(content: bytes) -> None:
    with reading():
        Image.open(io.BytesIO(content)).load()


def _decoded(content: bytes) -> None:
    check(TolerantImage().decode_example({"bytes": content, "path": None}))


def test_what_a_task_does_with_a_sound_picture_is_no_fault():
    """An exception of PIL's, but not of a decoder."""
    picture = Image.open(io.BytesIO(media.png()))
    with pytest.raises(ValueError, match="wrong mode"), reading():
        picture.convert("nonsense")
    with pytest.raises(AttributeError), reading():
        Image.open(None)
