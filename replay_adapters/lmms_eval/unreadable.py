"""Documents whose pictures or clips cannot be read: a stand-in for the class, then no answer.

A harness's class makes a whole batch at once, so that one bad input would end the run. It is given
a grey picture instead, and what it answers there is taken back.
"""

import mimetypes
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlparse

import torch
from loguru import logger
from PIL import Image
from torch import Tensor

from replay_adapters.lmms_eval import documents
from replay_adapters.lmms_eval.batches import Asked
from replay_adapters.media import UnreadableInput, check_clip, check_picture, reading, told
from replay_adapters.session.records import Key
from replay_adapters.session.session import Session
from replay_core import ReplayRecord

Visual = tuple[str, Any]  # what a path is to the class ("image", "video", ""); picture or path

# libjpeg's longest side; the simple Qwen2-VL and Qwen2.5-VL classes send every picture through it.
_JPEG_SIDE = 65500


def note(session: Session, key: Key, error: UnreadableInput) -> None:
    """Keep why a document cannot be answered, and say so the first time.

    Raises:
        UnreadableInput: with ``replay_strict``.
    """
    task, document = key
    if isinstance(document, Asked):
        document = document.document
    message = f"unreadable input, document {document} of {task}: {error}"
    if session.model.settings.config.strict:
        raise UnreadableInput(message)
    if (task, document) not in session.faults:
        logger.warning(f"replay: {message}")
    session.faults[task, document] = str(error)


def guarded(session: Session, request: Any, *, chat: bool) -> Any:
    """Return one of lmms-eval's requests whose input is checked as the class takes it.

    The callable is the second argument of a chat class's request and the third of a simple one's,
    and the class may use one request's for its whole batch: the document is the one looked up last.
    """
    arguments = list(request.arguments)
    place = 1 if chat else 2
    make, stand_in = arguments[place], _grey_messages if chat else _grey

    def checked(document: Any, **more: Any) -> Any:
        key = session.looked_up[-1]
        try:
            documents.check(document)
            with reading():
                made = make(document, **more)
            for kind, visual in _visuals(made):
                _check(kind, visual)
                if isinstance(visual, Image.Image) or kind == "video":
                    check_for_class(session.model, visual)
        except UnreadableInput as error:
            note(session, key, error)
            return stand_in()
        return made

    arguments[place] = checked
    request.arguments = tuple(arguments)
    return request


def check_for_class(model: Any, visual: Any) -> None:
    """Raise UnreadableInput where a simple class cannot read a picture or a clip's path.

    PIL and PyAV may: these classes open clips with decord, and send pictures as JPEG.
    """
    import decord

    if not model.is_simple:
        return
    if isinstance(visual, Image.Image):
        if hasattr(model, "_encode_image_data_url") and max(visual.size) > _JPEG_SIDE:
            raise UnreadableInput(
                f"an image: a side of {max(visual.size)} pixels is longer than the "
                f"{_JPEG_SIDE} that JPEG has, in which this class sends pictures"
            )
    else:
        try:
            decord.VideoReader(visual)
        except (decord.DECORDError, RuntimeError) as error:
            raise UnreadableInput(f"{visual}: {told(error)}") from error


def taken_back(
    output: Tensor,
    records: Sequence[ReplayRecord],
    prompt: Tensor,
    unread: Sequence[ReplayRecord | None],
    end: int,
) -> tuple[Tensor, list[ReplayRecord]]:
    """Return what ``generate`` returned (batch, prompt + t) and its records, less some answers.

    ``unread`` are the records of the rows that have no answer, None for the others; ``end`` is the
    token that ends an answer.
    """
    if None not in unread:
        return prompt, [record for record in unread if record is not None]
    lost = torch.tensor([record is not None for record in unread], device=output.device)
    output = output.clone()
    output[lost, prompt.shape[1] :] = end
    return output, [other or record for other, record in zip(unread, records, strict=True)]


def _check(kind: str, visual: Any) -> None:
    if isinstance(visual, Image.Image):
        check_picture(visual)
    elif isinstance(visual, str) and not urlparse(visual).scheme:
        if kind == "video":
            check_clip(visual)
        elif kind == "image":
            with reading(visual), Image.open(visual) as picture:
                check_picture(picture, visual)


def _visuals(made: Any) -> list[Visual]:
    """Return the pictures and clips of what a task makes: visuals, or chat messages."""
    found: list[Visual] = []
    for part in made if isinstance(made, list | tuple) else [made]:
        if isinstance(part, dict) and "role" in part:
            content = part["content"] if isinstance(part["content"], list) else []
            found += [(piece["type"], piece["url"]) for piece in content if "url" in piece]
        elif isinstance(part, list):  # simple qwen2_vl takes [[picture]] too
            found += _visuals(part)
        else:  # of paths, a simple class takes clips only
            kind = (mimetypes.guess_type(part)[0] if isinstance(part, str) else None) or ""
            found.append(("video" if kind.startswith("video/") else "", part))
    return found


def _grey() -> list[Image.Image]:
    return [Image.new("RGB", (56, 56), "grey")]


def _grey_messages() -> list[dict[str, Any]]:
    (picture,) = _grey()
    content = [{"type": "image", "url": picture}, {"type": "text", "text": "?"}]
    return [{"role": "user", "content": content}]
