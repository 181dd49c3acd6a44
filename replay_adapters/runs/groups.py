"""Groups of lmms-eval's tasks, read back as one run over the documents of all of them.

The harness writes samples for each task of a group, and for the group a number alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.runs.lmms_eval import read_json, read_task
from replay_adapters.runs.run import Facts, RunLog, reported_number
from replay_core import UsageError


def group_runs(folder: Path) -> dict[str, Callable[[str | None], RunLog]]:
    """Return group → reader of its newest run below ``folder``; a reader takes the metric."""
    found: dict[str, Callable[[str | None], RunLog]] = {}
    for path in sorted(folder.rglob("*_results.json"), key=lambda path: path.name):
        content = read_json(path)
        for group, tasks in (content.get("group_subtasks") or {}).items():
            if tasks:
                found[group] = lambda metric, p=path, g=group, c=content: _read(p, c, g, metric)
    return found


def _read(path: Path, results: Mapping[str, Any], group: str, metric: str | None) -> RunLog:
    stamp = path.name.removesuffix("_results.json")
    parts = []
    for task in _leaves(group, results["group_subtasks"]):
        samples = path.with_name(f"{stamp}_samples_{task}.jsonl")
        if not samples.is_file():
            raise UsageError(f"{samples} of the group {group} is missing; run it again")
        parts.append(read_task(samples, path, task, metric))
    metrics = {part.metric for part in parts}
    if len(metrics) > 1:
        raise UsageError(
            f"the tasks of {group} are scored by {', '.join(sorted(metrics))}; give --metric, or "
            "one of its tasks"
        )
    first, numbers = parts[0], (results.get("results") or {}).get(group) or {}
    return RunLog(
        "lmms-eval",
        group,
        first.metric,
        path,
        {f"{part.task} {document}": i for part in parts for document, i in part.items.items()},
        _facts(parts),
        settings=first.settings,
        beside=tuple(part.path for part in parts),
        asked=sum(part.asked or 0 for part in parts),
        whole=_sum([part.whole for part in parts]),
        reported=reported_number(numbers, first.metric),
        unscored=sum(part.unscored for part in parts),
    )


def _leaves(group: str, members: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the tasks of a group, and of the groups in it."""
    return [
        leaf
        for name in members[group]
        for leaf in (_leaves(name, members) if members.get(name) else [name])
    ]


def _facts(parts: Sequence[RunLog]) -> Facts:
    """Return what all parts have in common by its name, and the rest by the part's name before."""
    found: Facts = {}
    for aspect in dict.fromkeys(aspect for part in parts for aspect in part.facts):
        each = {part.task: part.facts.get(aspect, {}) for part in parts}
        values = list(each.values())
        found[aspect] = {}
        for name in dict.fromkeys(name for facts in values for name in facts):
            if all(name in facts and facts[name] == values[0].get(name) for facts in values):
                found[aspect][name] = values[0][name]
            else:
                found[aspect] |= {f"{task} {name}": facts.get(name) for task, facts in each.items()}
    return found


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
