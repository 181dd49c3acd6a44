"""Whether the judge that a task's scorer asks can be asked, before anything is answered.

Without one, lmms-eval's scorers score 0, or nothing, or fail behind the last answer; and the
evaluation ends with 0.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from replay_adapters.settings.benchmarks import benchmark_of
from replay_adapters.settings.endpoints import is_key, unreachable
from replay_adapters.settings.places import check_name
from replay_core import UsageError

# How the tasks of lmms-eval call the metrics that a judge gives.
_JUDGED = ("gpt", "llm_as_judge")
_OPENAI = ("OPENAI_API_KEY", "OPENAI_API_URL")
_AZURE = ("AZURE_API_KEY", "AZURE_ENDPOINT")


def check_named(tasks: Iterable[str]) -> None:
    """Refuse the paper's benchmarks that need a judge where there is none.

    Raises:
        UsageError: one of them does; the sentence says what to set, or which task has rules.
    """
    for task in tasks:
        benchmark = benchmark_of(task)
        if benchmark is not None and benchmark.tasks[task].judge is not None:
            _check(task)


def check_tasks(tasks: Mapping[str, Any]) -> None:
    """Refuse tasks that are scored by a judge, by the names of their metrics.

    ``tasks`` is what lmms-eval evaluates: name → task, and group → the same again.

    Raises:
        UsageError: one of them is, and there is no judge; or its name, by which a file of results
            is called, leads out of its folder.
    """
    for name, task in tasks.items():
        if isinstance(task, Mapping):
            check_tasks(task)
            continue
        check_name("a task has the name", str(name))
        if any(metric.startswith(_JUDGED) for metric in _metrics(task)):
            _check(str(name))


def _metrics(task: Any) -> list[str]:
    listed = getattr(task.config, "metric_list", None) or ()
    return [str(entry["metric"]) for entry in listed]


def _check(task: str) -> None:
    why = no_judge()
    if why is None:
        return
    benchmark = benchmark_of(task)
    ruled = [
        name
        for name, other in (benchmark.tasks.items() if benchmark else ())
        if other.harness == "lmms-eval" and other.judge is None
    ]
    instead = f", or take a task that is scored by rules: {', '.join(ruled)}" if ruled else ""
    raise UsageError(f"the answers to {task} are scored by a judge, but {why}{instead}")


def no_judge() -> str | None:
    """Return why no judge can be asked; None where one can, as far as can be told.

    lmms-eval finds it by the environment: ``API_TYPE`` (openai), ``OPENAI_API_KEY``,
    ``OPENAI_API_URL`` and ``MODEL_VERSION``, or ``AZURE_API_KEY`` and ``AZURE_ENDPOINT``; also in a
    file ``.env`` of the working directory.
    """
    _read_env_file()
    kind = os.environ.get("API_TYPE", "openai").lower()
    if not kind.endswith(("openai", "azure")):
        return None
    names = _AZURE if "azure" in kind else _OPENAI
    key, url = (os.environ.get(name, "") for name in names)
    if not is_key(key, url):
        given = f"{names[0]}={key}" if key else f"{names[0]} is not set"
        return (
            f"{given} (set {names[0]}, and {names[1]} for an endpoint of your own, such as "
            "http://localhost:8000/v1; MODEL_VERSION names its model)"
        )
    return unreachable(names[1], url) if url else None


def _read_env_file() -> None:
    from dotenv import load_dotenv  # as lmms-eval does, once it loads its judges

    file = Path.cwd() / ".env"
    if file.is_file():
        load_dotenv(file, override=False)
