"""A task of six drawn pictures of different sizes, one question with two of them."""

from typing import Any

import numpy as np
from PIL import Image

SIZES = [(84, 140), (112, 56), (56, 168), (140, 84), (84, 84), (56, 112)]


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """Return the document's pictures."""
    rng = np.random.default_rng(doc["seed"])
    sizes = [SIZES[doc["seed"]], *([(56, 84)] if doc["seed"] == 3 else [])]
    shapes = [(height, width, 3) for width, height in sizes]
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str]) -> str:
    """Return the question, with the prompt that the task keeps for the model's name in front."""
    return lmms_eval_specific_kwargs["pre_prompt"] + doc["question"]


WORDS = {"type": "text", "text": "Box it."}


def without_question(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a user turn of one or two pictures, of a picture and "", or a system turn alone."""
    if doc["seed"] == 1:
        return [{"role": "system", "content": [{"type": "text", "text": "Look."}]}]
    parts: list[Any] = [{"type": "image", "url": picture} for picture in doc_to_visual(doc)]
    if doc["seed"] == 2:
        parts.append({"type": "text", "text": ""})
    return [{"role": "user", "content": parts}]


def with_words(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the same prompts, each with what a protocol adds spelled out."""
    *before, last = without_question(doc)
    if last["role"] == "system":
        return [last, {"role": "user", "content": [WORDS]}]
    pictures = [part for part in last["content"] if part["type"] == "image"]
    return [*before, {"role": "user", "content": [*pictures, WORDS]}]


def two_rounds(
    doc: dict[str, Any],
    lmms_eval_specific_kwargs: dict[str, str] | None = None,
    previous_output: list[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """Return the question, and in a second round another one about the same picture."""
    if round_idx is None:
        return doc["question"]
    done = round_idx == 2
    text = None if done else "Look again: " + doc["question"]
    return None if done else doc_to_visual(doc), text, done, list(previous_output or []), None


def score_rounds(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Return how many rounds were answered."""
    return {"even": float(len(results[0]))}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return a score that any answer has."""
    return {"even": float(len(results[0]) % 2 == 0)}


def fail(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Fail, as a scorer with a defect does."""
    raise RuntimeError("this scorer always fails")
