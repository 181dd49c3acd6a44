"""Runs of lmms-eval, read back from its results and samples files."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.lmms_eval.metrics import raw_score
from replay_adapters.lmms_eval.verdicts import has_verdicts, verdicts
from replay_adapters.runs.run import (
    Facts,
    Item,
    RunLog,
    argument_facts,
    flat,
    plugin_facts,
    published_metrics,
    reported_number,
    score,
)
from replay_core import UsageError
from replay_core.errors import shown
from replay_core.jsonl import read_lines

Sample = dict[str, Any]
# How a task's configuration shows one of the harness's functions.
_FUNCTION = re.compile(r"<function (\w+) at 0x[0-9a-f]+>")


def lmms_eval_runs(folder: Path) -> dict[str, Callable[[str | None], RunLog]]:
    """Return task → reader of its newest run below ``folder``; a reader takes the metric."""
    found: dict[str, Callable[[str | None], RunLog]] = {}
    for path in sorted(folder.rglob("*_samples_*.jsonl"), key=lambda path: path.name):
        stamp, task = path.name.removesuffix(".jsonl").split("_samples_", 1)
        results = path.with_name(f"{stamp}_results.json")
        if results.is_file():
            found[task] = lambda metric, p=path, r=results, t=task: read_task(p, r, t, metric)
    return found


def read_task(path: Path, results_file: Path, task: str, metric: str | None = None) -> RunLog:
    """Return the run that a samples file and the results file beside it are of.

    Raises:
        UsageError: a file was cut, or lacks a finite score for a document.
    """
    results = read_json(results_file)
    config = results["configs"][task]
    samples = _samples(path, results, task)
    names = [entry["metric"] for entry in config.get("metric_list") or ()]
    named = metric or _published(samples, task) or _first_of_all(samples, names)
    if not any(named in sample for sample in samples):
        raise UsageError(
            f"metric {shown(named)!r} is no number per document in {path.name} (give --metric; the "
            f"task names {', '.join(names) or 'none'})"
        )
    part = _part(samples, named, names)
    reported = reported_number((results.get("results") or {}).get(task) or {}, named)
    scores, unscored = _scores(part, named, config, reported, path)
    items = {}
    for sample, value in zip(part, scores, strict=True):
        document = sample["doc_id"]
        items[document] = _item(sample, named, score(value, named, task, document, path))
    replay = results.get("replay") or {}
    sizes = (results.get("n-samples") or {}).get(task) or {}
    return RunLog(
        "lmms-eval",
        task,
        named,
        path,
        items,
        _facts(results, config),
        settings=replay or {"policy": _pairs(_run(results).get("model_args")).get("pretrained")},
        beside=(results_file,),
        asked=len(samples),
        whole=sizes.get("original"),
        reported=reported,
        unscored=unscored,
    )


def _scores(
    samples: Sequence[Sample],
    metric: str,
    config: Mapping[str, Any],
    reported: float | None,
    path: Path,
) -> tuple[list[Any], int]:
    """Return each document's score as it is logged, or by the task's own aggregation where that
    alone tells it; and how many documents the harness gives none."""
    listed = config.get("metric_list") or ()
    named = next((str(one.get("aggregation")) for one in listed if one["metric"] == metric), "")
    aggregation = _FUNCTION.sub(r"\1", named)
    tables: list[Any] = [sample.get(metric) for sample in samples]
    if has_verdicts(aggregation) and all(isinstance(table, dict) for table in tables):
        found = verdicts(aggregation, tables, reported, str(path))
        return list(found.scores), found.left_out
    key = config.get("score_key") or "score"
    raw = (raw_score(sample, metric, key) for sample in samples)
    # What has no score in it is refused with all that it is.
    return [t if value is None else value for value, t in zip(raw, tables, strict=True)], 0


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of one of the harness's files.

    Raises:
        UsageError: it is no whole JSON file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no whole JSON file ({shown(error)})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds {shown(found)}, not a mapping of results")
    return found


def _samples(path: Path, results: Mapping[str, Any], task: str) -> list[Sample]:
    """Return the file's samples, one per document and as many as the run had.

    Raises:
        UsageError: the file was cut, or holds a document twice.
    """
    try:
        samples = read_lines(path)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no file of JSON lines ({shown(error)})") from error
    seen = set()
    for sample in samples:
        if sample["doc_id"] in seen:
            raise UsageError(
                f"document {sample['doc_id']} of task {task} stands twice in {path}, as of a task "
                "with several filters: which of its scores is meant cannot be told"
            )
        seen.add(sample["doc_id"])
    sizes = (results.get("n-samples") or {}).get(task) or {}
    asked = sizes.get("effective")
    if isinstance(asked, int):
        asked = min(asked, sizes["original"] - (_run(results).get("offset") or 0))
    if isinstance(asked, int) and asked != len(samples):
        raise UsageError(
            f"{path} holds {len(samples)} of the {asked} documents that the run asked of task "
            f"{task}; run it again"
        )
    if sum(1 for line in path.read_bytes().split(b"\n") if line.strip()) != len(samples):
        raise UsageError(f"{path} holds no whole last line; run task {task} again")
    return samples


def answers_of(sample: Sample) -> list[str]:
    """Return the texts of all answers to one document, in the order of requests and repeats."""
    given = sample.get("resps") or []
    each = given if isinstance(given, list) else [given]
    return [text for one in each for text in (one if isinstance(one, list) else [one])]


def _published(samples: Sequence[Sample], task: str) -> str | None:
    """Return the metric that the paper's number is of, where samples have one."""
    metrics = published_metrics(task)
    return next((name for name in metrics if any(name in sample for sample in samples)), None)


def _first_of_all(samples: Sequence[Sample], names: Sequence[str]) -> str:
    """Return the task's first metric that is not one of only a part of the documents."""
    whole = (name for name in names if _others(samples, name, names) is None)
    return next(whole, names[0] if names else "")


def _part(samples: Sequence[Sample], metric: str, names: Sequence[str]) -> list[Sample]:
    """Return the samples that a metric is about: all, or those of its part of the task.

    Some tasks divide their documents between metrics, as HR-Bench does between ``single`` and
    ``cross``. A document that lacks the metric for no such reason stays, and its score is missing.
    """
    others = _others(samples, metric, names) or set()
    return [sample for sample in samples if metric in sample or not others & sample.keys()]


def _others(samples: Sequence[Sample], metric: str, names: Sequence[str]) -> set[str] | None:
    """Return the metrics of the other parts of the task; None where ``metric`` has no part."""
    having = [sample for sample in samples if metric in sample]
    common = {name for sample in having for name in sample.keys() & set(names)}
    others = {name for name in names if name not in common}
    divided = having and any(others & sample.keys() for sample in samples)
    return others if divided else None


def _item(sample: Sample, metric: str, value: float) -> Item:
    table = sample.get(metric)
    return Item(
        value,
        asked=str(sample.get("input", "")),
        target=str(sample.get("target", "")),
        answers=answers_of(sample),
        records=sample.get("replay") or (),
        counted=[count["output_tokens"] for count in sample.get("token_counts") or () if count],
        fields=flat({**_tables(sample), **(table if isinstance(table, dict) else {}), **sample}),
    )


def _tables(sample: Sample) -> dict[str, Any]:
    """Return the fields of all tables that a scorer left of a document, as MathVerse's problem."""
    tables = (value for value in sample.values() if isinstance(value, dict))
    return {name: value for table in tables for name, value in table.items()}


def _facts(results: Mapping[str, Any], config: Mapping[str, Any]) -> Facts:
    run, replay = _run(results), results.get("replay")
    backend = re.findall(r"\((chat|simple)\)", str(run.get("model_backend", "")))
    facts = plugin_facts(replay) if replay else argument_facts(_pairs(run.get("model_args")))
    facts["prompt"] |= {
        "class": backend[0] if backend else None,
        "system_instruction": results.get("system_instruction"),
        "few shots": config.get("num_fewshot"),
        "prompt parts": config.get("lmms_eval_specific_kwargs"),
    }
    facts["decoding"] |= {
        "generation": {
            **(config.get("generation_kwargs") or {}),
            **{name: _typed(value) for name, value in _pairs(run.get("gen_kwargs")).items()},
            **facts["decoding"].pop("generation", {}),
        },
        "repeats": config.get("repeats"),
    }
    cli = run.get("resolved_cli_args") or {}
    judge = {"scorer": re.sub(r" at 0x[0-9a-f]+", "", str(config.get("process_results")))}
    facts["judge"] = {**judge, "reasoning_tags": cli.get("reasoning_tags")}
    return facts


def _run(results: Mapping[str, Any]) -> Mapping[str, Any]:
    return results.get("config") or {}


def _typed(value: Any) -> Any:
    """Return what a typed value means to the harness: ``16`` is the number that a task has."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _pairs(text: Any) -> dict[str, Any]:
    """Return ``a=1,b=[2,3]`` as a mapping; empty for nothing."""
    if isinstance(text, Mapping):
        return dict(text)
    parts = re.split(r",(?![^\[]*\])", text) if isinstance(text, str) else []
    return dict(part.split("=", 1) for part in parts if "=" in part)
