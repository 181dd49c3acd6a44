"""``lmms_eval`` on the sets of the folder SETS, with the texts of its ``script.json``.

The sets stand under the harness's own names, which it would take for its own whatever
``--include_path`` says. The script is task → one text per document: it replaces what the model
wrote, behind all that it did, so that scorers can be judged by answers whose verdict a person
knows, which a tiny checkpoint cannot give.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any


def main() -> None:
    from lmms_eval.tasks import TaskManager

    from replay_adapters.lmms_eval import launcher, mixin

    sets = Path(os.environ["SETS"])
    script = json.loads((sets / "script.json").read_text(encoding="utf-8"))
    texts, find = mixin.ReplayMixin.answered, TaskManager.initialize_tasks

    def scripted(model: Any, requests: list[Any]) -> list[Any]:
        answers = []
        for request, given in zip(requests, texts(model, requests), strict=True):
            text = script[request.task_name][request.doc_id]
            answers.append(text if isinstance(given, str) else replace(given, text=text))
        return answers

    def ours(manager: Any, *arguments: Any, **options: Any) -> Any:
        index = find(manager, *arguments, **options)
        for path in sets.glob("*.yaml"):
            index[path.stem]["yaml_path"] = str(path)
        return index

    mixin.ReplayMixin.answered = scripted  # type: ignore[method-assign]
    TaskManager.initialize_tasks = ours  # type: ignore[method-assign]
    launcher.main()


if __name__ == "__main__":
    main()
