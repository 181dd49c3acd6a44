"""A task whose documents bring their own answers, scored by the paper's suites' real scorers."""

import importlib
import os
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("OPENAI_API_KEY", "none")  # some suites want one on import

SCORERS = {
    "mathverse": "mathverse_process_results",
    "mathvision": "mathvision_process_results",
    "mathvista": "mathvista_process_results",
    "dynamath": "dynamath_process_results",
    "wemath": "wemath_reasoning_process_results",
    "logicvista": "logicvista_reasoning_process_results",
    "mmmu": "mmmu_reward_process_results",
    "mmmu_pro": "mmmu_pro_reward_process_results",
    "vstar_bench": "vstar_reasoning_process_results",
}
_SCORE = {
    suite: getattr(importlib.import_module(f"lmms_eval.tasks.{suite}.reasoning.utils"), name)
    for suite, name in SCORERS.items()
}


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """Return a grey picture."""
    return [Image.fromarray(np.full((56, 56, 3), 128, np.uint8))]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return every suite's score of the document's own answer, whatever the model said."""
    document = _document(doc["truth"])
    suites = doc["suites"] or list(SCORERS)
    scores = {suite: _SCORE[suite](document, [doc["scripted"]]) for suite in suites}
    return {suite: _accuracy(scores[suite]) if suite in scores else 0.0 for suite in SCORERS}


def _accuracy(metrics: dict[str, Any]) -> float:
    if "dynamath_average" in metrics:
        return float(metrics["dynamath_average"]["acc"])
    return float(metrics.get("acc_score", metrics.get("vstar_overall_acc_score")))


def _document(truth: str) -> dict[str, Any]:
    """Return a document with the fields that any of the suites reads."""
    texts = ["id", "ID", "question_id", "split", "key", "text", "query_wo", "query_cot", "option"]
    texts += ["unit", "caption", "ocr", "category", "subject", "problem_version"]
    return {
        **dict.fromkeys(texts, "x"),
        "question": "How long?",
        "question_type": "free_form",
        "answer_type": "float",
        "precision": 1,
        "choices": [],
        "options": "[]",
        "knowledge concept": "x",
        "knowledge concept description": "x",
        "question number": 1,
        "answer": truth,
        "ground_truth": truth,
        "label": truth,
    }
