"""Clips and pictures as files, sound and broken ones, each written with PyAV or PIL."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def clip(path: Path, frames: int, rate: int, size: tuple[int, int] = (112, 84), **how: Any) -> Path:
    """Write a clip in which a bright square crosses noise; ``how`` are ``av.open``'s options."""
    width, height = size
    rng = np.random.default_rng(frames)
    ground = rng.integers(0, 160, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w", **how) as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = ground.copy()
            left = number * 7 % (width - 20)
            picture[10:30, left : left + 20] = 250
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """Write a file with two seconds of silence and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for number in range(30):
            silence = np.zeros((1, 1024), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, number * 1024
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def hostile_clips(folder: Path) -> dict[str, Path]:
    """Write clips whose headers declare what would take gigabytes, by what that is."""
    many = folder / "many frames.mp4"
    content = bytearray(clip(many, 8, 4).read_bytes())
    count = content.find(b"stts") + 12  # behind version, flags and the number of entries
    content[count : count + 4] = struct.pack(">I", 2**32 - 2)
    many.write_bytes(bytes(content))
    return {"many frames": many, "large frames": clip(folder / "large.mp4", 1, 4, (8176, 4352))}


def titled(path: Path, title: bytes) -> Path:
    """Write a clip with a title of bytes that may be no UTF-8."""
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "x" * len(title)
        stream = file.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        black = np.zeros((84, 112, 3), dtype=np.uint8)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
        file.mux(stream.encode())
    content = path.read_bytes()
    assert b"x" * len(title) in content
    path.write_bytes(content.replace(b"x" * len(title), title))
    return path


BROKEN_CLIPS = ("sound", "cut", "cut_behind_its_index", "hole", "empty", "garbage")


def broken_clips(folder: Path) -> dict[str, Path]:
    """Write clips that cannot be read, by what is wrong with them (``BROKEN_CLIPS``)."""
    whole = clip(folder / "whole.mp4", 40, 10).read_bytes()
    ahead = clip(folder / "ahead.mp4", 40, 10, options={"movflags": "faststart"}).read_bytes()
    hole = bytearray(ahead)  # the first and the last frames stay
    start, stop = len(hole) * 4 // 10, len(hole) * 7 // 10
    hole[start:stop] = bytes(stop - start)
    contents = {
        "cut": whole[: len(whole) // 2],
        "cut_behind_its_index": ahead[: len(ahead) * 6 // 10],
        "hole": bytes(hole),
        "empty": b"",
        "garbage": np.random.default_rng(0).bytes(5000),
    }
    files = {"sound": sound(folder / "sound.mp4")}
    for name, content in contents.items():
        files[name] = folder / f"{name}.mp4"
        files[name].write_bytes(content)
    return files


def png(size: tuple[int, int] = (84, 56), seed: int = 0) -> bytes:
    """Return a noisy picture as a PNG file."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise), "PNG")


def saved(picture: Image.Image, kind: str) -> bytes:
    """Return a picture as a file of the kind that PIL names."""
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _png(width: int, height: int, *between: bytes, packed: bytes = zlib.compress(b"")) -> bytes:
    """Return a PNG file of RGB pixels whose header says any size, with chunks in between."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + data


@cache
def hostile_pictures() -> dict[str, bytes]:
    """Return small picture files that would take gigabytes, or start a program, by how."""
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(500)) + packer.flush()
    bitmap = struct.pack("<IiiHHIIiiII", 40, 50_000, 50_000, 1, 24, *[0] * 6)
    return {
        "declares 60000 by 60000": _png(60_000, 60_000),
        "bitmap": b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + bitmap + bytes(9),
        "text of 500 MB": _png(5, 5, _chunk(b"zTXt", b"k\0\0" + zeros)),
        "profile of 500 MB": _png(5, 5, _chunk(b"iCCP", b"k\0\0" + zeros)),
        "pixels of 500 MB": _png(5, 5, packed=zeros),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n",
    }


@cache
def bomb() -> bytes:
    """Return a small PNG file with 196 million black pixels, made row by row."""
    side = 14_000
    packer = zlib.compressobj(1)
    row = bytes(1 + side)
    packed = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def broken_pictures() -> dict[str, bytes]:
    """Return picture files that cannot be read, by what is wrong with them."""
    whole = png((140, 112))
    jpeg = saved(Image.open(io.BytesIO(whole)), "JPEG")
    return {
        "empty": b"",
        "garbage": np.random.default_rng(1).bytes(3000),
        "cut png": whole[: len(whole) // 2],
        "cut jpeg": jpeg[: len(jpeg) // 2],
        "no pixels": whole[:16] + struct.pack(">II", 0, 5) + whole[24:],
        "bomb": bomb(),
        "drawn out": png((2010, 10)),
        "drawn out by rounding": png((5910, 30)),
    }
