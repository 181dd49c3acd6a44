"""The items of the demonstration as a set of VLMEvalKit."""

import base64
import importlib.util
import io
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from replay_adapters.settings.resources import resource

TASK = "replay_demo"


@cache
def demo_task() -> ModuleType:
    """Return the module of the task ``replay_demo``, which lies outside any package."""
    path = resource("tasks") / TASK / f"{TASK}.py"
    spec = importlib.util.spec_from_file_location(TASK, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def demo_documents() -> list[dict[str, Any]]:
    """Return the test items, the same that lmms-eval is given."""
    split = json.loads((resource("tasks") / TASK / "splits" / "test.json").read_text())
    return list(demo_task().split_docs(**split))


def write_set(path: Path, documents: list[dict[str, Any]]) -> None:
    """Write documents as a set of VLMEvalKit: a TSV with PNG images in base64.

    It lies in the folder that the environment variable LMUData names, under the set's name.
    """
    import pandas as pd

    rows = []
    for index, document in enumerate(documents):
        picture = io.BytesIO()
        document["image"].save(picture, format="PNG")
        rows.append(
            {
                "index": index,
                "image": base64.b64encode(picture.getvalue()).decode(),
                "question": document["question"],
                "answer": document["answer"],
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
