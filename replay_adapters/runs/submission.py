"""``activation-replay submission``: what others need to check a result, in one folder."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_adapters.console import check_output
from replay_adapters.runs.command_lines import command_line
from replay_adapters.runs.compare import TaskComparison, compare_logs
from replay_adapters.runs.described import Entry, described
from replay_adapters.runs.openvlm import CutCell, model_entry, write_predictions
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.run import RunLog
from replay_adapters.runs.tables import row_of
from replay_adapters.runs.twins import title_of, with_twins
from replay_core import UsageError
from replay_core.errors import shown

# What a name may hold in a folder's or a file's name; anything else becomes an underscore.
_UNSAFE = re.compile(r"[^\w.+-]+")
# Values that must not leave the house, in the arguments that harnesses keep beside results.
_SECRET = re.compile(rb"(?i)\b((?:hf_|auth_)?token|api_?key|password|secret)=([^,\"\s]+)")


@dataclass(frozen=True)
class Submission:
    """A bundle that was written."""

    output: Path
    name: str
    """The method's name."""
    entries: tuple[Entry, ...]
    cut: tuple[CutCell, ...]
    removed: tuple[str, ...]
    """Files from which a token or a key was taken out."""


def submit(
    folders: Sequence[Path], output: Path, *, name: str | None = None, seed: int = 0
) -> Submission:
    """Write a bundle of the steered runs below ``folders``, with their twins, into ``output``.

    ``name`` is the policy's on leaderboards; the pair's own without. The bundle appears whole or
    not at all.

    Raises:
        UsageError: ``output`` holds something already, a run has no twin, or runs are of several
            policies.
    """
    check_output("--output", output.parent)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {shown(output)} exists already; give a folder that does not")
    pairs = with_twins(read_all(folders))
    policies = sorted({str(run.settings.get("policy")) for _, run in pairs})
    if len(policies) > 1:
        raise UsageError(f"the runs are of several policies: {', '.join(policies)}; give one's")
    title = name or title_of(pairs[0][1].settings)
    compared = compare_logs(pairs, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".submission-") as scratch:
        root = Path(scratch) / "bundle"
        written = _Writer(root, title).write(compared)
        if output.exists():
            output.rmdir()
        root.rename(output)
    return Submission(output, f"{title} (Replay)", *written)


def read_all(folders: Iterable[Path]) -> list[RunLog]:
    """Return the newest run of every task below each folder.

    A work folder of VLMEvalKit holds one folder per model: each of them is read on its own.
    """
    runs = []
    for folder in folders:
        stamps = sorted(folder.rglob("replay/settings.json")) if folder.is_dir() else []
        models = [stamp.parents[1] for stamp in stamps]
        for one in models or [folder]:
            runs += read_runs(one)
    return runs


class _Writer:
    """Writes one bundle below ``root``; every name in it is made safe first."""

    def __init__(self, root: Path, title: str) -> None:
        self.root, self.title, self.model = root, title, safe(title)
        self.cut: list[CutCell] = []
        self.removed: list[str] = []

    def write(
        self, compared: Sequence[TaskComparison]
    ) -> tuple[tuple[Entry, ...], tuple[CutCell, ...], tuple[str, ...]]:
        """Write all files; return what they are of, which cells are cut, and what was taken out."""
        self.root.mkdir()
        entries = tuple(self._entry(found) for found in compared)
        of_vlmevalkit = [one for one in entries if one.found.b.harness != "lmms-eval"]
        if of_vlmevalkit:
            self._openvlm(of_vlmevalkit)
        name = f"{self.title} (Replay)"
        told = described(name, entries, self.cut, self.removed)
        (self.root / "README.md").write_bytes(_SECRET.sub(rb"\1=REMOVED", told.encode()))
        files = {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }
        content = {"method": name, "runs": [_content(one) for one in entries], "files": files}
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
        (self.root / "bundle.json").write_bytes(_SECRET.sub(rb"\1=REMOVED", text.encode()))
        return entries, tuple(self.cut), tuple(self.removed)

    def _entry(self, found: TaskComparison) -> Entry:
        folders = [
            Path(safe(run.harness), f"{self.model}{ending}")
            for run, ending in ((found.b, "-Replay"), (found.a, ""))
        ]
        for run, folder in zip((found.b, found.a), folders, strict=True):
            self._copy(run, self.root / folder)
        steered, twin = (_totals(run) for run in (found.b, found.a))
        where, twin_where = map(str, folders)
        return Entry(found, where, twin_where, steered, twin, _commands(found))

    def _copy(self, run: RunLog, folder: Path) -> None:
        """Copy a run's own files: samples, predictions, scorers' tables, results, settings."""
        for path in dict.fromkeys([run.path, *run.beside, *_kept(run)]):
            content = path.read_bytes()
            if path.suffix in (".json", ".jsonl"):
                content = _SECRET.sub(rb"\1=REMOVED", content)
            inner = Path("replay" if path.parent.name == "replay" else "", safe(path.name))
            where = folder / inner
            if where.exists() and where.read_bytes() != content:
                where = folder / safe(run.task) / inner  # another command's, of the same name
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(content)
            if content != path.read_bytes():
                self.removed.append(str(where.relative_to(self.root)))

    def _openvlm(self, entries: Sequence[Entry]) -> None:
        """Write both models' predictions as the leaderboard has them, and the models' entries."""
        folder = self.root / "openvlm"
        arguments: dict[str, Any] = {}
        for entry in entries:
            for run, ending in ((entry.found.b, "-Replay"), (entry.found.a, "")):
                model = f"{self.model}{ending}"
                where = folder / model / f"{model}_{safe(run.task)}.xlsx"
                self.cut += write_predictions(run, where)
                arguments.setdefault(model, run.settings.get("arguments") or {})
        run = entries[0].found.b
        facts = [f"{role}: {run.settings.get(role)}" for role in ("policy", "base")]
        told = model_entry(arguments, f"{self.title} (Replay)", facts)
        (folder / "model_entry.py").write_text(told, encoding="utf-8")


def safe(name: str) -> str:
    """Return a name that is one part of a path: nothing in it leads elsewhere, or hides it."""
    return _UNSAFE.sub("_", name).lstrip(".") or "_"


def _kept(run: RunLog) -> list[Path]:
    """Return what the adapter keeps beside a run's predictions in VLMEvalKit."""
    if run.harness == "lmms-eval":
        return []
    folder = next((p / "replay" for p in run.path.parents if (p / "replay").is_dir()), None)
    if folder is None:
        return []
    names = ("settings.json", f"{run.task}.jsonl", f"{run.task}.totals.json")
    return [folder / name for name in names if (folder / name).is_file()]


def _totals(run: RunLog) -> dict[str, Any]:
    """Return what a run's records add up to, as the adapters wrote it."""
    kept = [path for path in _kept(run) if path.name.endswith(".totals.json")]
    source = json.loads(kept[0].read_text(encoding="utf-8")) if kept else run.settings
    found: dict[str, Any] = source.get("totals") or {}
    return found


def _commands(found: TaskComparison) -> tuple[str, ...]:
    """Return what made a run and its twin; empty where the files do not say it."""
    try:
        return tuple(command_line([run], twin=False) for run in (found.b, found.a))
    except UsageError:
        return ()


def _content(entry: Entry) -> dict[str, Any]:
    """Return all that is known of a run, for programs."""
    run = entry.found.b
    return {
        "comparison": row_of(entry.found).fields(),
        "settings": {k: v for k, v in run.settings.items() if k != "totals"},
        "totals": entry.totals,
        "twin_totals": entry.twin_totals,
        "twin_settings": {k: v for k, v in entry.found.a.settings.items() if k != "totals"},
        "commands": list(entry.commands),
        "folder": entry.folder,
        "twin_folder": entry.twin_folder,
    }
