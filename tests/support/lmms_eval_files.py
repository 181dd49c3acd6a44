"""Finished runs of lmms-eval, written by the harness's own code from samples made on the spot."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_core import ReplayConfig

NONE, REPLAY = {"method": "none"}, {"method": "replay"}


def write_run(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]],
    *,
    task: str = "pictures",
    names: Sequence[str] = ("accuracy",),
    asked: Sequence[str] | None = None,
    answer: str = "x",
    summary: Mapping[str, Any] | None = None,
    changed: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> Path:
    """Write a run with ``metrics`` per document, as ``process_results`` gives; return its folder.

    A document's records may stand beside its metrics, under ``replay``.

    ``names`` is the task's list of metrics; ``summary`` replaces parts of what the plugin logs, and
    ``changed`` parts of what runs are compared by: ``tokens``, ``scorer``, ``pixels``, ``suffix``.
    """
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker

    given = {"tokens": 16, "scorer": "f", "pixels": "12544", "suffix": None, **(changed or {})}
    config = {
        "metric_list": [{"metric": name} for name in names],
        "generation_kwargs": {"max_new_tokens": given["tokens"], "temperature": 0},
        "process_results": f"<function {given['scorer']} at 0x7f00{len(answer)}>",
        "repeats": 1,
    }
    plugin = {
        "pair": "demo",
        "protocol_settings": {"user_suffix": given["suffix"], "generation": {}},
        "harness_arguments": {"max_pixels": given["pixels"], "batch_size": "8"},
        "dtype": "float32",
        **(summary or {}),
    }
    plugin["config"] = ReplayConfig(**plugin.get("config", NONE)).model_dump(mode="json")
    shown = {name: [row[name] for row in metrics if name in row] for name in names}
    results = {
        "results": {task: {f"{name},none": _mean(values) for name, values in shown.items()}},
        "configs": {task: config},
        "config": {"model_backend": "x.Qwen25VLReplay (chat)", "model_args": "", "offset": 0},
        "n-samples": {task: {"original": len(metrics) if limit is None else limit}},
        "replay": plugin,
    }
    results["n-samples"][task]["effective"] = len(metrics)
    samples = [
        {
            "doc_id": number,
            "doc": {},
            "target": number % 4,
            "arguments": [asked[number] if asked else f"Question {number}?\nA. yes\nB. no"],
            "resps": [[answer]],
            "filtered_resps": [answer],
            "token_counts": [None],
            "doc_hash": "",
            "replay": [{"new_tokens": 5 + number % 3, "truncated": number % 10 == 0}],
            **row,
        }
        for number, row in enumerate(metrics)
    ]
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args("m", "pretrained=m", "", "", False)
    stamp = f"{datetime.datetime(2026, 1, 1):%Y%m%d_%H%M%S}_{len(list(folder.rglob('*.json')))}"
    tracker.save_results_aggregated(results, {task: samples}, stamp)
    tracker.save_results_samples(task, samples)
    return folder


def samples_file(folder: Path) -> Path:
    """Return the one samples file below a folder."""
    (path,) = folder.rglob("*_samples_*.jsonl")
    return path


def _mean(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else "N/A"
