"""Pictures and clips that cannot be read: which exceptions say so, and what to check beforehand."""

import binascii
import contextlib
import errno
import functools
import re
import struct
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL
from PIL import EpsImagePlugin, Image, ImageFile

from replay_core.errors import ReplayError

EpsImagePlugin.gs_binary = False  # for EPS, PIL would start Ghostscript on what a picture says

# More pixels are a warning, twice as many an error; PIL's own value, which some of lmms-eval's
# tasks and VLMEvalKit replace by 1e9, enough for 6 GB of a picture that is kilobytes on the disk.
PIXEL_LIMIT = 1024**3 // 4 // 3
# The largest frame there is in practice (8K); readers hold a clip's frames at full size.
FRAME_LIMIT = 7680 * 4320
# No codec writes a frame into fewer bytes, its entries in the container's tables included.
_FRAME_BYTES = 4

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
_MARK = "_activation_replay"
_PILLOW = Path(PIL.__file__).parent
_PLAIN = (OSError, FileNotFoundError, IsADirectoryError, PermissionError)


class UnreadableInput(ReplayError):
    """A picture or clip of a prompt cannot be read; the message names it and says why."""


def is_fault(error: Exception) -> bool:
    """Return whether ``error`` says that a picture's content or file cannot be read.

    PIL raises a plain OSError without a number for a cut file and a SyntaxError without a line for
    a broken one; those of Python and of the machine have both, and are not a picture's fault. Its
    decoders raise exceptions of every other kind too.
    """
    if type(error) in _PLAIN:
        assert isinstance(error, OSError)
        return error.errno in _OF_THE_FILE
    if isinstance(error, SyntaxError):
        return error.lineno is None
    return isinstance(error, _NAMED) or _of_a_decoder(error)


def _of_a_decoder(error: Exception) -> bool:
    """Return whether PIL raised ``error`` from inside of a picture that it opened or decoded."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    pillow = [Path(code.co_filename).parent == _PILLOW for code in codes]
    entered = any(
        ours and (code is Image.open.__code__ or code.co_name == "load")
        for code, ours in zip(codes, pillow, strict=True)
    )
    return entered and pillow[-1] and codes[-1] is not Image.open.__code__


def is_decoders_fault(error: Exception) -> bool:
    """Return whether ``error`` is of a picture, where nothing but PIL's decoders was running."""
    if isinstance(error, OSError):
        return is_fault(error)
    return isinstance(error, DECODER_FAULTS) or is_fault(error)


@contextmanager
def reading(name: str = "an image") -> Iterator[None]:
    """Raise as UnreadableInput what the block raises about a picture; all else passes through.

    ``name`` is what the picture is called where PIL was not given a file.
    """
    try:
        yield
    except Exception as error:
        if not is_fault(error):
            raise
        raise UnreadableInput(f"{_file_of(error) or name}: {told(error)}") from error


def check_picture(picture: Image.Image, name: str = "an image") -> None:
    """Decode a picture, which PIL then keeps decoded.

    Raises:
        UnreadableInput: its content is broken or cut, it has no pixels, or more than PIL's limit.
    """
    width, height = picture.size
    if not width or not height:
        raise UnreadableInput(f"{name}: it has {width} by {height} pixels")
    if width * height > 2 * PIXEL_LIMIT:
        raise UnreadableInput(
            f"{name}: it has {width} by {height} pixels, more than {2 * PIXEL_LIMIT}"
        )
    try:
        picture.load()
    except Exception as error:
        if not is_decoders_fault(error):
            raise
        raise UnreadableInput(f"{name}: {told(error)}") from error


def check_clip(path: str) -> None:
    """Decode the first frame of a clip in a file; its length costs nothing.

    Raises:
        UnreadableInput: there is no such file, or no picture in it, or not a readable one, or its
            header is a hostile one (:func:`check_header`).
    """
    import av  # with both harnesses' qwen-vl-utils

    if not Path(path).is_file():
        raise UnreadableInput(f"{path}: there is no such file")
    try:
        with av.open(path, metadata_errors="replace") as file:  # titles in any encoding
            if not file.streams.video:
                raise UnreadableInput(f"{path}: it has sound, but no picture")
            _check_stream(path, file.streams.video[0])
            if next(file.decode(file.streams.video[0]), None) is None:
                raise UnreadableInput(f"{path}: it has no frame")
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            raise
        raise UnreadableInput(f"{path}: {told(error)}") from error


def check_header(path: str) -> None:
    """Check what a clip's header declares, for which a reader takes memory before it decodes.

    Raises:
        UnreadableInput: frames of more pixels than 8K has, or more frames than bytes can hold.
    """
    import av

    broken = contextlib.suppress(av.FFmpegError)  # of which its reader tells
    with broken, av.open(path, metadata_errors="replace") as file:
        if file.streams.video:
            _check_stream(path, file.streams.video[0])


def _check_stream(path: str, stream: Any) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > FRAME_LIMIT:
        raise UnreadableInput(
            f"{path}: its frames have {width} by {height} pixels, more than {FRAME_LIMIT}"
        )
    size = Path(path).stat().st_size
    if stream.frames > size // _FRAME_BYTES:
        raise UnreadableInput(f"{path}: its {size} bytes declare {stream.frames} frames")


def let_decord_read_headers_first() -> None:
    """Let decord refuse a clip whose header declares more than there can be.

    decord 0.6 takes memory for as many frames as a header declares; where there is not so much, it
    ends the whole process. To be dropped when it raises instead.
    """
    import decord

    original = decord.VideoReader.__init__
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def checked(self: Any, uri: Any, *given: Any, **more: Any) -> None:
        self._handle = None  # its own destructor asks for it
        if isinstance(uri, str) and Path(uri).is_file():
            try:
                check_header(uri)
            except UnreadableInput as error:
                raise RuntimeError(f"Error reading {error}") from error  # as decord's own
        original(self, uri, *given, **more)

    setattr(checked, _MARK, True)
    decord.VideoReader.__init__ = checked


def _file_of(error: Exception) -> str | None:
    """Return the file that PIL was reading, which its exceptions do not name."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        picture = frame.f_locals.get("self")
        file = picture.filename if isinstance(picture, ImageFile.ImageFile) else None
        if frame.f_code is Image.open.__code__:
            file = frame.f_locals.get("filename")
        if isinstance(file, str | Path) and str(file):
            return str(file)
    return None


# Where in decord's source and when, values from memory, objects' addresses.
_PASSING = re.compile(r"\[[\d:]{8}\] \S+: |Check failed: | ?\(-?\d+ vs\. -?\d+\)| ?<_io\.[^>]*>")


def told(error: BaseException) -> str:
    """Return an exception's kind and the first line of its text, the same at every run."""
    text = str(getattr(error, "strerror", None) or error).strip()
    first = _PASSING.sub("", (text.splitlines() or [""])[0]).strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
