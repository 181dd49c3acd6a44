"""Pictures and clips that cannot be read: which exceptions say so, and what to check beforehand."""

import binascii
import errno
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from replay_core.errors import ReplayError

# What PIL's decoders raise on a picture's content, and nothing else may be running beside them.
DECODER_FAULTS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

# Of these, what is a picture's fault also where a task's own code may be running.
_NAMED = (
    *(EOFError, struct.error, zlib.error, binascii.Error),
    *(Image.UnidentifiedImageError, Image.DecompressionBombError),
)

# An OSError of the file, not of the machine (a full disk, too many open files); PIL's have no
# number.
_OF_THE_FILE = (None, errno.ENOENT, errno.EISDIR, errno.EACCES)
_PLAIN = (OSError, FileNotFoundError, IsADirectoryError, PermissionError)


class UnreadableInput(ReplayError):
    """A picture or clip of a prompt cannot be read; the message names it and says why."""


def is_fault(error: Exception) -> bool:
    """Return whether ``error`` says that a picture's content or file cannot be read.

    PIL raises a plain OSError without a number for a cut file and a SyntaxError without a line for
    a broken one; those of Python and of the machine have both, and are not a picture's fault.
    """
    if type(error) in _PLAIN:
        assert isinstance(error, OSError)
        return error.errno in _OF_THE_FILE
    if isinstance(error, SyntaxError):
        return error.lineno is None
    return isinstance(error, _NAMED)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise as UnreadableInput what the block raises about a picture; all else passes through."""
    try:
        yield
    except Exception as error:
        if not is_fault(error):
            raise
        raise UnreadableInput(f"{name}: {told(error)}") from error


def check_picture(picture: Image.Image, name: str = "an image") -> None:
    """Decode a picture, which PIL then keeps decoded.

    Raises:
        UnreadableInput: its content is broken or cut, it has no pixels, or more than PIL's limit.
    """
    width, height = picture.size
    if not width or not height:
        raise UnreadableInput(f"{name}: it has {width} by {height} pixels")
    try:
        picture.load()
    except DECODER_FAULTS as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        raise UnreadableInput(f"{name}: {told(error)}") from error


def check_clip(path: str) -> None:
    """Decode the first frame of a clip in a file; its length costs nothing.

    Raises:
        UnreadableInput: there is no such file, or no picture in it, or not a readable one.
    """
    import av  # with both harnesses' qwen-vl-utils

    if not Path(path).is_file():
        raise UnreadableInput(f"{path}: there is no such file")
    try:
        with av.open(path) as file:
            if not file.streams.video:
                raise UnreadableInput(f"{path}: it has sound, but no picture")
            if next(file.decode(file.streams.video[0]), None) is None:
                raise UnreadableInput(f"{path}: it has no frame")
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        raise UnreadableInput(f"{path}: {told(error)}") from error


def told(error: BaseException) -> str:
    """Return an exception's kind and the first line of its text, without a place in its source."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0].rpartition("Check failed: ")[2]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
