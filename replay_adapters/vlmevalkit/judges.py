"""Whether the judge that a set's scorer asks can be asked, before anything is answered.

Without one the harness answers every item, and only then finds that it cannot score them.
"""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from replay_adapters.settings.benchmarks import benchmark_of
from replay_adapters.settings.endpoints import is_key, unreachable
from replay_core import UsageError

# Judges of the harness that are no model, and those that it asks elsewhere.
_RULES = ("exact_matching",)
_ELSEWHERE = ("qwen-7b", "qwen-72b", "deepseek", "llama31-8b")


def check_judges(datasets: Iterable[str], argv: Sequence[str], package: Path) -> None:
    """Refuse sets that need a judge where the command line and the environment name none.

    The harness takes ``--judge``, ``--judge-base-url``, ``--judge-key`` and ``--judge-args``, else
    ``OPENAI_API_KEY`` and ``OPENAI_API_BASE``, also from a file ``.env`` beside its ``package``.

    Raises:
        UsageError: one sentence that says what to set.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--mode", "--judge", "--judge-base-url", "--judge-key", "--judge-args"):
        parser.add_argument(name, default="")
    parser.add_argument("--use-verifier", action="store_true")
    asked, _ = parser.parse_known_args(list(argv))
    judged = [task for task in datasets if _asks(task)]
    if not judged or asked.mode == "infer" or asked.use_verifier or asked.judge in _ELSEWHERE:
        return
    task = judged[0]
    if asked.judge in _RULES:
        raise UsageError(
            f"--judge {asked.judge} cannot score {task} (allowed: a model of an OpenAI-compatible "
            "endpoint, such as --judge gpt-4o-mini)"
        )
    why = _no_judge(asked, package)
    if why is not None:
        raise UsageError(
            f"the answers to {task} are scored by a judge, but {why}; --mode infer answers only"
        )


def _asks(task: str) -> bool:
    benchmark = benchmark_of(task)
    return benchmark is not None and benchmark.tasks[task].judge is not None


def _no_judge(asked: argparse.Namespace, package: Path) -> str | None:
    more = _judge_args(asked.judge_args)
    if more.get("use_azure"):
        return None
    known = {**os.environ, **_env_file(package.parent / ".env")}
    key = asked.judge_key or str(more.get("key") or known.get("OPENAI_API_KEY", ""))
    url = asked.judge_base_url or str(more.get("api_base") or known.get("OPENAI_API_BASE", ""))
    if not is_key(key, url):
        given = f"OPENAI_API_KEY={key}" if key else "no key is given"
        return (
            f"{given} (set OPENAI_API_KEY or --judge-key, and --judge-base-url for an endpoint of "
            "your own, such as http://localhost:8000/v1; --judge names its model)"
        )
    name = "--judge-base-url" if asked.judge_base_url else "OPENAI_API_BASE"
    return unreachable(name, url) if url.startswith("http") or asked.judge_base_url else None


def _judge_args(given: str) -> dict[str, object]:
    try:
        found = json.loads(given) if given else {}
    except ValueError as error:
        raise UsageError(f"--judge-args {given[:80]} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--judge-args {given[:80]} is no JSON object")
    return found


def _env_file(path: Path) -> dict[str, str]:
    from dotenv import dotenv_values

    return {k: v for k, v in dotenv_values(path).items() if v} if path.is_file() else {}
