"""The original image of a document, from the data of the harness that asked about it."""

from pathlib import Path

from PIL import Image

from replay_adapters.media import UnreadableInput, reading
from replay_adapters.runs.conversation import Conversation
from replay_core import UsageError
from replay_core.errors import shown


def original_of(
    conversation: Conversation, file: Path | None, include_path: str | None = None
) -> Image.Image:
    """Return the image that a conversation is about: of ``file``, or of its task's own data.

    Raises:
        UsageError: the file is not there, or the harness does not know the task.
    """
    if file is not None:
        if not file.is_file():
            raise UsageError(f"--image {shown(file)} is no file")
        try:
            with reading(str(file)), Image.open(file) as picture:
                return picture.convert("RGB")
        except UnreadableInput as error:
            raise UsageError(f"--image {shown(file)} is no picture that can be read") from error
    if conversation.harness == "lmms-eval":
        from replay_adapters.lmms_eval.questions import picture_of

        return picture_of(conversation.task, conversation.document, include_path)
    from replay_adapters.vlmevalkit.pictures import picture_of as row_picture

    return row_picture(conversation.task, conversation.document)
