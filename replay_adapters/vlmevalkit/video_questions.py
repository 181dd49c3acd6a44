"""What a pair with a template of its own is asked about VLMEvalKit's video sets: the bare question.

The sets write instructions of their own around it ("Only give the best option", "Add `Answer: …`"),
and MLVU_MCQ's are a text behind the question, where a template would be put around them alone.
"""

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

from replay_adapters.settings.pairs import Protocol
from replay_adapters.settings.protocol import QUESTION_TYPE
from replay_adapters.settings.questions import MULTIPLE_CHOICE, kind_of, with_options

Prompt = list[dict[str, Any]]


def bare(prompt: Prompt, row: Mapping[str, Any], dataset: Any, protocol: Protocol) -> Prompt:
    """Return a prompt with the row's question and its kind in place of the set's own texts.

    As it is where the set is another one, or the protocol has no template.
    """
    ask = _ASKED.get(type(dataset).__name__)
    if ask is None or protocol.question_template is None:
        return prompt
    question, kind = ask(row, dataset)
    seen = [part for part in prompt if part["type"] != "text"]
    return [*seen, {"type": "text", "value": question, QUESTION_TYPE: kind}]


def _choice(row: Mapping[str, Any], dataset: Any) -> tuple[str, str]:
    candidates = row["candidates"]
    options = ast.literal_eval(candidates) if isinstance(candidates, str) else list(candidates)
    return with_options(str(row["question"]), [str(one) for one in options]), MULTIPLE_CHOICE


def _videommmu(row: Mapping[str, Any], dataset: Any) -> tuple[str, str]:
    options = json.loads(row["options"])
    kind = kind_of(str(row["question_type"]), options, str(row["answer"]))
    question = str(row["question"])
    if kind == MULTIPLE_CHOICE:
        question = with_options(question, options)
    if row["category"] != "Adaptation":
        return f"{dataset.PERCEPTION_AND_COMPREHENSION_PROMPT.strip()}\n{question}", kind
    words = dataset.MCQ_PROMPT if kind == MULTIPLE_CHOICE else dataset.OPEN_ENDED_PROMPT
    return f"{dataset.PRE_PROMPT}{words}{question}", kind


_ASKED: dict[str, Callable[[Mapping[str, Any], Any], tuple[str, str]]] = {
    "Video_Holmes": _choice,
    "MLVU_MCQ": _choice,
    "VideoMMMU": _videommmu,
}
