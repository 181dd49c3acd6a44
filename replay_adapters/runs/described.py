"""The description of a submitted model: what it is, what came of it, and how to check it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replay_adapters.runs.compare import TaskComparison
from replay_adapters.runs.openvlm import CutCell
from replay_adapters.runs.summary import summary_line, summary_table
from replay_adapters.runs.tables import told

_METHODS = {
    "replay": "Activation Replay (Xing et al. 2025, arXiv 2511.19972): before a policy trained by "
    "RLVR answers, the visual tokens of its prompt are optimised at test time, so that the "
    "policy's activations at positions where its base was sure come near the base's. No weight "
    "changes.",
    "inject": "Injection (Xing et al. 2025, arXiv 2511.19972, Table 1): while a policy trained by "
    "RLVR reads its prompt, its activations at chosen positions are overwritten by those of its "
    "base. No weight changes.",
}


@dataclass(frozen=True)
class Entry:
    """One steered run of a submission, with its twin."""

    found: TaskComparison
    """The comparison; a is the twin."""
    folder: str
    """Where the run's own files lie in the bundle."""
    twin_folder: str
    totals: dict[str, Any]
    twin_totals: dict[str, Any]
    commands: tuple[str, ...]
    """What made the run and its twin; empty where the harness's files do not say it."""


def described(
    name: str, entries: Sequence[Entry], cut: Sequence[CutCell], removed: Sequence[str]
) -> str:
    """Return the page of a bundle, in Markdown."""
    settings = entries[0].found.b.settings
    parts = [
        f"# {name}",
        *(
            _METHODS[method]
            for method in dict.fromkeys(o.found.b.config["method"] for o in entries)
        ),
        _table(
            ("", "checkpoint", "revision"),
            [
                (role, settings.get(role) or "–", settings.get(f"{role}_revision") or "not logged")
                for role in ("policy", "base")
            ],
        ),
        "## Results\n\nScores in percent, differences in points: each run against its twin, the "
        "same settings with the policy alone, item by item.",
        summary_table([summary_line(one.found) for one in entries]),
        *(f"```\n{told(one.found)}\n```" for one in entries),
        "## Settings",
        *(_settings(one) for one in entries),
        _remarks(cut, removed),
        _files(entries),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _settings(entry: Entry) -> str:
    """Return what made one run: its options where they are not the defaults, and its totals."""
    run, settings = entry.found.b, entry.found.b.settings
    versions = settings.get("versions") or {}
    lines = [
        ("options", _shown(run.config)),
        ("preset", settings.get("preset")),
        ("protocol", settings.get("protocol")),
        ("prompt, pixels, decoding", _shown(settings.get("protocol_settings") or {})),
        ("harness's arguments", _shown(settings.get("harness_arguments") or {})),
        ("judge", run.facts.get("judge", {}).get("judge")),
        ("dtype", settings.get("dtype")),
        ("versions", _shown(versions)),
        *_totals(entry.totals),
        ("answers cut, twin", _share(entry.twin_totals.get("truncated"))),
    ]
    known = [(label, _cell(value)) for label, value in lines if value not in (None, "", "–")]
    commands = "\n".join(entry.commands)
    made = f"\n\n```\n{commands}\n```" if commands else ""
    return f"### {run.task} in {run.harness}\n\n{_table(('', 'value'), known)}{made}"


def _totals(totals: Mapping[str, Any]) -> list[tuple[str, Any]]:
    seconds = totals.get("seconds_per_sample") or {}
    return [
        ("answers", totals.get("n")),
        ("outcomes", _shown(totals.get("outcomes") or {})),
        ("masked KL, nats", _two(totals.get("loss_before"), totals.get("loss_after"))),
        ("share of positions masked", _share(totals.get("masked_fraction"))),
        ("seconds per answer", _shown({k: f"{v:.3g}" for k, v in seconds.items() if v})),
        ("new tokens", totals.get("new_tokens")),
        ("answers cut", _share(totals.get("truncated"))),
        ("texts without a final answer", totals.get("no_answer")),
    ]


def _remarks(cut: Sequence[CutCell], removed: Sequence[str]) -> str:
    lines = [f"- cut: {one}" for one in cut]
    lines += [f"- a token or key was taken out of {path}" for path in removed]
    whole = "\n\nThe tables below `VLMEvalKit/` are whole." if cut else ""
    return (
        "## What differs from the runs' own files\n\n" + "\n".join(lines) + whole if lines else ""
    )


def _files(entries: Sequence[Entry]) -> str:
    """Return what lies where, and how each part is handed in."""
    folders = dict.fromkeys(f for one in entries for f in (one.folder, one.twin_folder))
    parts = ["## Files", "\n".join(f"- `{folder}/`" for folder in folders)]
    parts[-1] += "\n- `bundle.json`: all of this for programs, with the SHA-256 of every file"
    kinds = {one.found.b.harness for one in entries}
    if "lmms-eval" in kinds:
        upload = shlex.join(["hf", "upload", "--repo-type", "dataset"])
        parts.append(
            "**lmms-eval.** Results and samples lie as its `--hf_hub_log_args` pushes them, a "
            f"folder per model. To push them yourself: `{upload} ORG/lmms-eval-results lmms-eval .`"
        )
    if kinds - {"lmms-eval"}:
        parts.append(
            "**OpenVLM leaderboard.** `openvlm/` holds `MODEL/MODEL_BENCHMARK.xlsx` of the model "
            "and of its twin, and `model_entry.py`, what the pull request adds to the harness. "
            "Name the method as this page does. A zip of the folder: "
            "`python -m zipfile -c openvlm.zip openvlm`"
        )
    return "\n\n".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Return a value that stays in its cell."""
    return str(value).replace("|", r"\|").replace("\n", "⏎")


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items() if value not in ({}, None))


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _two(first: float | None, second: float | None) -> str | None:
    return None if first is None or second is None else f"{first:.4g} → {second:.4g}"
