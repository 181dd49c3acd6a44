"""lmms-eval's video sets with their bare questions, which a pair's own template is put around.

Rows, clips and scorers are lmms-eval's own. A document says of what kind its question is, and the
pair's protocol knows the template and that kind's suffix.
"""

from collections.abc import Callable
from typing import Any

from replay_adapters.media import UnreadableInput
from replay_adapters.settings.protocol import QUESTION_TYPE
from replay_adapters.settings.questions import (
    MULTIPLE_CHOICE,
    kind_of,
    with_options,
    without_options,
)

Document = dict[str, Any]
Words = dict[str, Any] | None


def videommmu_docs(docs: Any) -> Any:
    """Return VideoMMMU's documents with the kinds of their questions."""
    columns = zip(docs["question_type"], docs["options"], docs["answer"], strict=True)
    return docs.add_column(QUESTION_TYPE, [kind_of(*row) for row in columns])


def choice_docs(docs: Any) -> Any:
    """Return documents that all have options."""
    return docs.add_column(QUESTION_TYPE, [MULTIPLE_CHOICE] * len(docs))


def mmvu_choice_docs(docs: Any) -> Any:
    """Return MMVU's documents with options, 625 of its validation split's 1,000."""
    chosen = [
        number for number, kind in enumerate(docs["question_type"]) if kind == "multiple-choice"
    ]
    return choice_docs(docs.select(chosen).flatten_indices())


def videommmu_adaptation(doc: Document, words: Words = None) -> str:
    """Return an adaptation question behind the set's words about the clip."""
    words = words or {}
    choice = doc[QUESTION_TYPE] == MULTIPLE_CHOICE
    before = words["pre_prompt"] + words["mcq_prompt" if choice else "open_ended_prompt"]
    return before + _videommmu(doc)


def videommmu_perception_comprehension(doc: Document, words: Words = None) -> str:
    """Return a perception or comprehension question behind the set's words about the clip."""
    before = (words or {})["perception_and_comprehension_prompt"]
    return f"{before.strip()}\n{_videommmu(doc)}"


def _videommmu(doc: Document) -> str:
    question = str(doc["question"])
    if doc[QUESTION_TYPE] == MULTIPLE_CHOICE:
        return with_options(question, doc["options"])
    return question


def video_holmes(doc: Document, words: Words = None) -> str:
    """Return a Video-Holmes question with its options, which are named by their letters."""
    options = doc["Options"]
    given = [f"{letter}. {options[letter]}" for letter in sorted(options) if options[letter]]
    return with_options(str(doc["Question"]), given)


def mmvu(doc: Document, words: Words = None) -> str:
    """Return an MMVU question with those of its options that are not empty."""
    choices = doc["choices"]
    given = [f"{letter}. {choices[letter]}" for letter in sorted(choices) if choices[letter]]
    return with_options(str(doc["question"]), given)


def mlvu(doc: Document, words: Words = None) -> str:
    """Return an MLVU question with its options, which the set's scorer knows by their letters."""
    question, options = without_options(str(doc["question"]))
    given = options or list(doc.get("candidates") or ())
    return with_options(question, given) if given else question


def videommmu_visual(doc: Document) -> list[Any]:
    """Return the path of a VideoMMMU document's clip."""
    from lmms_eval.tasks.videommmu import utils

    return _clip(utils.videommmu_doc_to_visual, doc)


def video_holmes_visual(doc: Document) -> list[Any]:
    """Return the path of a Video-Holmes document's clip."""
    from lmms_eval.tasks.video_holmes import utils

    return _clip(utils.video_holmes_doc_to_visual, doc)


def mmvu_visual(doc: Document) -> list[Any]:
    """Return the path of an MMVU document's clip."""
    from lmms_eval.tasks.mmvu import utils

    return _clip(utils.mmvu_doc_to_visual_val, doc)


def mlvu_visual(doc: Document) -> list[Any]:
    """Return the path of an MLVU document's clip."""
    from lmms_eval.tasks.mlvu import utils

    return _clip(utils.mlvu_doc_to_visual_dev, doc)


def _clip(find: Callable[[Document], list[Any]], doc: Document) -> list[Any]:
    """Return what lmms-eval finds; a missing clip is its document's outcome.

    Upstream ends the process for it, or asks Video-Holmes' question without a clip.

    Raises:
        UnreadableInput: the clip is not there.
    """
    try:
        found = find(doc)
    except SystemExit as ended:
        raise UnreadableInput(str(ended.code)) from ended
    if not found:
        raise UnreadableInput(f"clip {doc.get('video ID')}: there is no such file")
    return found
