"""A model of lmms-eval that has no weights: it writes given texts, as far as a task lets it."""

from typing import Any

from lmms_eval.api.model import lmms
from transformers import AutoTokenizer

TEXTS: dict[str, list[str]] = {}
"""Task → one text per document."""
# What the harness's chat class for Qwen2.5-VL takes where the task sets no limit.
_LIMIT = 128


class Writer(lmms):
    """Answers each request with its text, cut at the task's limit of tokens."""

    def __init__(self, tokenizer: str, **flags: Any) -> None:
        super().__init__()
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._written(one) for one in requests]

    def _written(self, request: Any) -> str:
        ids = self._tokenizer(TEXTS[request.task_name][request.doc_id]).input_ids
        written: str = self._tokenizer.decode(ids[: request.args[1].get("max_new_tokens", _LIMIT)])
        return written

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError
