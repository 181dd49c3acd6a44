"""A scorer that asks a judge in lmms-eval's own way."""

import os
from typing import Any

from lmms_eval.llm_judge import Request, ServerConfig, get_server


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return whether the judge says yes."""
    config = ServerConfig(model_name=os.environ["MODEL_VERSION"])
    server = get_server(os.environ.get("API_TYPE", "openai"), config=config)
    said = server.evaluate(Request(messages=[{"role": "user", "content": doc["question"]}]))
    return {"gpt_eval_score": float(said.content == "yes")}
