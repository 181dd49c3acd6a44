"""Finished runs of either harness, read back from the harness's own files."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from replay_core import UsageError

# Model arguments that decide what a model sees of a picture or film.
PIXEL_KEYS = ("min_pixels", "max_pixels", "total_pixels", "max_num_frames", "fps", "nframe")
# Arguments that say where and how fast, or which model, but not what is asked.
_NEUTRAL = (
    *("batch_size", "device", "device_map", "attn_implementation", "use_flash_attention_2"),
    *("use_cache", "pretrained", "pair", "processor", "model_path", "verbose", "use_vllm"),
)
ASPECTS = ("documents", "prompt", "pixels", "decoding", "judge")


@dataclass(frozen=True)
class Item:
    """One document's result. ``asked`` is its question, ``target`` its right answer."""

    score: float
    asked: str = ""
    target: str = ""
    tokens: float | None = None
    truncated: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunLog:
    """One run on one task. ``facts``: aspect → what must be equal in a run it is compared with."""

    harness: str
    task: str
    metric: str
    path: Path
    items: dict[Any, Item]
    facts: dict[str, dict[str, Any]]
    pair: str | None = None

    @property
    def scores(self) -> dict[Any, float]:
        """Document → score."""
        return {document: item.score for document, item in self.items.items()}

    def mean(self, of: Callable[[Item], float | None]) -> float | None:
        """Return the mean over documents of something, None where any has none."""
        values = [of(item) for item in self.items.values()]
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None

    def clusters(self, name: str) -> dict[Any, str]:
        """Return document → cluster; ``question`` is what is asked, without the options.

        Raises:
            UsageError: the documents have no such field.
        """
        found: dict[Any, str] = {}
        for document, item in self.items.items():
            if name in item.fields:
                found[document] = str(item.fields[name])
            elif name == "question" and item.asked:
                found[document] = re.split(r"\n\s*\(?A[).:]", item.asked)[0].strip()
            else:
                fields = ", ".join(sorted({"question", *item.fields}))
                raise UsageError(
                    f"--cluster {name} is no field of {self.path.name} (allowed: {fields})"
                )
        return found


def read_runs(folder: Path, tasks: Iterable[str] = (), metric: str | None = None) -> list[RunLog]:
    """Return the newest run of every task below ``folder``, or of ``tasks``.

    Raises:
        UsageError: there is none, or one lacks scores per document.
    """
    wanted = list(tasks)
    if not folder.exists():
        raise UsageError(f"{folder} does not exist; give the folder of a run")
    found = {**_vlmevalkit_files(folder), **_lmms_eval_files(folder)}
    if not found:
        raise UsageError(
            f"{folder} holds neither samples of lmms-eval (run it with --output_path and "
            "--log_samples) nor results of VLMEvalKit per item (*_result.* or *_score.*)"
        )
    missing = [task for task in wanted if task not in found]
    if missing:
        raise UsageError(
            f"{folder} holds no run of {', '.join(missing)} (found: {', '.join(sorted(found))})"
        )
    return [found[task](task, metric) for task in wanted or sorted(found)]


Reader = Callable[[str, str | None], RunLog]


def _lmms_eval_files(folder: Path) -> dict[str, Reader]:
    found: dict[str, Reader] = {}
    for path in sorted(folder.rglob("*_samples_*.jsonl"), key=lambda path: path.name):
        stamp, task = path.name.removesuffix(".jsonl").split("_samples_", 1)
        results = path.with_name(f"{stamp}_results.json")
        if results.is_file():
            found[task] = lambda task, metric, p=path, r=results: _lmms_eval(p, r, task, metric)
    return found


def _lmms_eval(path: Path, results_file: Path, task: str, metric: str | None) -> RunLog:
    results = json.loads(results_file.read_text(encoding="utf-8"))
    config = results["configs"][task]
    named = metric or next((m["metric"] for m in config.get("metric_list") or ()), None)
    items = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        value = number(sample, named, config.get("score_key", "score"))
        if value is None:
            metrics = [m["metric"] for m in config.get("metric_list") or ()]
            raise UsageError(
                f"metric {named!r} is no number per document in {path.name} (give --metric; the "
                f"task names {', '.join(metrics) or 'none'})"
            )
        records = sample.get("replay") or []
        counts = [c["output_tokens"] for c in sample.get("token_counts") or () if c]
        extra = sample.get(named)
        items[sample["doc_id"]] = Item(
            value,
            asked=str(sample.get("input", "")),
            target=str(sample.get("target", "")),
            tokens=_mean([r.get("new_tokens") for r in records] or counts),
            truncated=_mean([r.get("truncated") for r in records]),
            fields=_flat({**(extra if isinstance(extra, dict) else {}), **sample}),
        )
    facts = _lmms_eval_facts(results, config)
    replay = results.get("replay") or {}
    return RunLog("lmms-eval", task, str(named), path, items, facts, replay.get("pair"))


def _lmms_eval_facts(results: dict[str, Any], config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    run, replay = results.get("config", {}), results.get("replay")
    backend = re.findall(r"\((chat|simple)\)", str(run.get("model_backend", "")))
    facts = _plugin_facts(replay) if replay else _argument_facts(_pairs(run.get("model_args")))
    facts["prompt"] |= {
        "class": backend[0] if backend else None,
        "system_instruction": results.get("system_instruction"),
        "few shots": config.get("num_fewshot"),
        "prompt parts": config.get("lmms_eval_specific_kwargs"),
    }
    facts["decoding"] |= {
        "generation": {
            **(config.get("generation_kwargs") or {}),
            **_pairs(run.get("gen_kwargs")),
            **facts["decoding"].pop("generation", {}),
        },
        "repeats": config.get("repeats"),
    }
    cli = run.get("resolved_cli_args") or {}
    judge = {"scorer": re.sub(r" at 0x[0-9a-f]+", "", str(config.get("process_results")))}
    facts["judge"] = {**judge, "reasoning_tags": cli.get("reasoning_tags")}
    return facts


def _plugin_facts(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the plugin says of a run, in either harness."""
    protocol = dict(summary.get("protocol_settings") or {})
    generation = protocol.pop("generation", {})
    facts = _argument_facts({**protocol, **(summary.get("harness_arguments") or {})})
    facts["decoding"] |= {"dtype": summary.get("dtype"), "generation": generation}
    return facts


def _argument_facts(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort a model's arguments into what they decide."""
    facts: dict[str, dict[str, Any]] = {"prompt": {}, "pixels": {}, "decoding": {}}
    for name, value in arguments.items():
        if name in _NEUTRAL or name.startswith("replay_"):
            continue
        prompt = "prompt" in name or "suffix" in name
        aspect = "pixels" if name in PIXEL_KEYS else "prompt" if prompt else "decoding"
        facts[aspect][name] = str(value)
    return facts


def _vlmevalkit_files(folder: Path) -> dict[str, Reader]:
    """Return task → reader of the newest file with a score per item."""
    found: dict[str, Reader] = {}
    tables = [p for p in folder.rglob("*") if p.suffix in (".tsv", ".xlsx", ".csv", ".json")]
    results = [p for p in tables if p.stem.endswith(("_result", "_score"))]
    for path in sorted(results, key=lambda p: p.stat().st_mtime):
        beside = [p for p in tables if p.parent == path.parent and p != path]
        predictions = [p for p in beside if path.stem.startswith(f"{p.stem}_")]
        if not predictions:
            continue
        prediction = min(predictions, key=lambda p: len(p.stem))
        model = next(
            (p.name for p in path.parents if prediction.stem.startswith(f"{p.name}_")), None
        )
        if model is None:
            continue
        task = prediction.stem.removeprefix(f"{model}_")
        judge = path.stem.removeprefix(prediction.stem)
        judge = judge.removesuffix("_result").removesuffix("_score").strip("_") or "none"
        found[task] = lambda task, metric, p=path, q=prediction, j=judge: _vlmevalkit(
            p, q, task, metric, j
        )
    return found


def _vlmevalkit(path: Path, prediction: Path, task: str, metric: str | None, judge: str) -> RunLog:
    table = _table(path)
    columns = [metric] if metric else ["hit", "score", "correct"]
    named = next((c for c in columns if c in table.columns), None)
    if named is None or "index" not in table.columns:
        raise UsageError(
            f"{path} has no column {' or '.join(columns)} beside 'index' (its columns: "
            f"{', '.join(map(str, table.columns))})"
        )
    folder = next((p / "replay" for p in path.parents if (p / "replay").is_dir()), None)
    summary, records = _journal(folder, task) if folder else ({}, {})
    items = {}
    for row in table.to_dict("records"):
        index = str(row["index"])
        options = {k: row[k] for k in "ABCDEFGHIJ" if k in row}
        mine = records.get(index, [])
        items[index] = Item(
            float(row[named]),
            asked="\n".join(
                [str(row.get("question", "")), *(f"{k}. {v}" for k, v in options.items())]
            ),
            target=str(row.get("answer", "")),
            tokens=_mean([r.get("new_tokens") for r in mine]),
            truncated=_mean([r.get("truncated") for r in mine]),
            fields=_flat({str(k): v for k, v in row.items()}),
        )
    facts = _plugin_facts(summary) if summary else _argument_facts({})
    facts["judge"] = {"judge": judge}
    return RunLog("VLMEvalKit", task, named, prediction, items, facts, summary.get("pair"))


def _journal(folder: Path, task: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Return settings and records that the VLMEvalKit adapter keeps beside predictions."""
    settings, lines = folder / "settings.json", folder / f"{task}.jsonl"
    summary = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    records = {}
    if lines.is_file():
        for line in map(json.loads, lines.read_text(encoding="utf-8").splitlines()):
            records[str(line["index"])] = line.get("replay") or []
    return summary, records


def _table(path: Path) -> Any:
    import pandas as pd

    readers: dict[str, Callable[[], Any]] = {
        ".xlsx": lambda: pd.read_excel(path),
        ".csv": lambda: pd.read_csv(path),
        ".tsv": lambda: pd.read_csv(path, sep="\t"),
        ".json": lambda: pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))),
    }
    try:
        return readers[path.suffix]()
    except (ValueError, ImportError) as error:
        raise UsageError(f"{path} cannot be read as a table ({error})") from error


def number(metrics: Mapping[str, Any], name: str | None, score_key: str) -> float | None:
    """Return the number that a task gives one document under a metric's name, if there is one."""
    value = metrics.get(name) if name else None
    if isinstance(value, Mapping):
        keys = (score_key, "score", "acc", "accuracy", "correct", "gpt_score")
        value = next((value[key] for key in keys if key in value), None)
    return float(value) if isinstance(value, bool | int | float) else None


def content(item: Item) -> str:
    """Return what tells whether two runs asked the same thing of a document."""
    return hashlib.sha256(f"{item.asked}\x1f{item.target}".encode()).hexdigest()[:16]


def _pairs(text: Any) -> dict[str, Any]:
    """Return ``a=1,b=[2,3]`` as a mapping; empty for nothing."""
    if isinstance(text, Mapping):
        return dict(text)
    parts = re.split(r",(?![^\[]*\])", text) if isinstance(text, str) else []
    return dict(part.split("=", 1) for part in parts if "=" in part)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if isinstance(v, str | int | float | bool)}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
