"""HR-Bench, V* and VisualProbe as conversations with DeepEyes' zoom tool.

Documents, pictures and scorers are lmms-eval's own; what is asked, and what a tool call is answered
by, is the conversation's (``replay_adapters.agents``).
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from replay_adapters.agents.asking import asking, last_answer, without_instruction
from replay_adapters.agents.conversation import Conversation, next_messages
from replay_core import UsageError

Document = dict[str, Any]
_OPTION = re.compile(r"\(([A-F])\)\s*(.*?)\s*(?=\([A-F]\)|\Z)", re.DOTALL)


def hrbench_messages(
    doc: Document,
    round_idx: int | None = None,
    previous_output: list[str] | None = None,
    previous_round_info: Conversation | None = None,
) -> Any:
    """Return the next messages of a conversation about an HR-Bench question."""
    from lmms_eval.tasks.hrbench import utils

    def image() -> Image.Image:
        return utils.hrbench_doc_to_visual(doc)[0]

    options = {letter: str(text) for letter, text in utils.hrbench_doc_to_options(doc).items()}
    opened = _opened(str(doc["question"]), options)
    return next_messages(opened, image, previous_output, previous_round_info)


def hrbench_results(doc: Document, results: Sequence[Any]) -> dict[str, Any]:
    """Return lmms-eval's own scores of the final answer, each with its question.

    The rotations of a question have the same options in another order: they are one cluster.
    """
    from lmms_eval.tasks.hrbench import utils

    scored = utils.hrbench_process_results(doc, [last_answer(results[0], "letter")])
    options = sorted(map(str, utils.hrbench_doc_to_options(doc).values()))
    question = " | ".join([str(doc["question"]), *options])
    return {metric: {**score, "question": question} for metric, score in scored.items()}


def vstar_messages(
    doc: Document,
    round_idx: int | None = None,
    previous_output: list[str] | None = None,
    previous_round_info: Conversation | None = None,
) -> Any:
    """Return the next messages of a conversation about a V* question."""
    opened = _opened(*vstar_question(doc["text"]))
    return next_messages(opened, lambda: doc["image"], previous_output, previous_round_info)


def vstar_question(text: str) -> tuple[str, dict[str, str]]:
    """Return the question and its options by letter, without the instruction behind them."""
    text = without_instruction(text)
    question, _, _ = text.partition("(A)")
    return question.strip(), dict(_OPTION.findall(text[len(question) :]))


def vstar_results(doc: Document, results: Sequence[Any]) -> dict[str, Any]:
    """Return lmms-eval's own scores of the final answer."""
    from lmms_eval.tasks.vstar_bench import utils

    scores: dict[str, Any] = utils.vstar_process_results(doc, [last_answer(results[0], "letter")])
    return scores


def visualprobe_messages(
    doc: Document,
    round_idx: int | None = None,
    previous_output: list[str] | None = None,
    previous_round_info: Conversation | None = None,
) -> Any:
    """Return the next messages of a conversation about a VisualProbe question."""
    opened = _opened(visualprobe_question(doc), {})
    image = _picture(doc)
    return next_messages(opened, image, previous_output, previous_round_info)


def visualprobe_visuals(doc: Document) -> list[Image.Image]:
    """Return a document's picture, in a list."""
    return [_picture(doc)()]


def visualprobe_question(doc: Document) -> str:
    """Return a document's question."""
    return str(_field(doc, "question", "problem", "query")).replace("<image>", "").strip()


def visualprobe_target(doc: Document) -> list[str]:
    """Return the answers that count as right."""
    given = _field(doc, "answer", "solution", "response")
    return [str(one) for one in given] if isinstance(given, list | tuple) else [str(given)]


def visualprobe_results(doc: Document, results: Sequence[Any]) -> dict[str, float]:
    """Return whether the final answer is one of the right ones, but for its form.

    The answers are free text. DeepEyes' release compares the first capital letter from A to G
    instead, by which two answers without any are equal; that metric is not offered.
    """
    said = normalised(last_answer(results[0]))
    right = {normalised(target) for target in visualprobe_target(doc)}
    return {"exact_match": float(bool(said) and said in right)}


def visualprobe_judged(doc: Document, results: Sequence[Any]) -> dict[str, float]:
    """Return the exact match, and what an OpenAI-compatible judge says where there is none.

    The judge is lmms-eval's: ``OPENAI_API_URL``, ``OPENAI_API_KEY`` and ``MODEL_VERSION``.
    """
    scores = visualprobe_results(doc, results)
    said = last_answer(results[0])
    if scores["exact_match"] or not said:
        return {**scores, "llm_as_judge_eval": scores["exact_match"]}
    told = _judge().evaluate_binary(
        question=visualprobe_question(doc),
        answer=" or ".join(visualprobe_target(doc)),
        prediction=said,
        output_format="0/1",
    )
    if not told["success"]:
        raise RuntimeError(f"the judge has not answered: {told['raw_response']!r}")
    return {**scores, "llm_as_judge_eval": float(told["result"])}


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and superfluous blanks."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = text.translate(str.maketrans(dict.fromkeys(string.punctuation, " ")))
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def _opened(question: str, options: dict[str, str]) -> Conversation:
    return Conversation.open(question, *asking(), options)


def _picture(doc: Document) -> Callable[[], Image.Image]:
    given = _field(doc, "image", "images")
    return lambda: given[0] if isinstance(given, list | tuple) else given


def _field(doc: Document, *names: str) -> Any:
    for name in names:
        if doc.get(name) is not None:
            return doc[name]
    raise UsageError(f"a document has none of {', '.join(names)} (but {', '.join(doc)})")


def _judge() -> Any:
    import os

    from lmms_eval.llm_judge import ServerConfig, get_server

    model = os.environ.get("MODEL_VERSION", "gpt-4o-2024-11-20")  # as lmms-eval's own scorers
    return get_server(os.environ.get("API_TYPE", "openai"), ServerConfig(model_name=model))
