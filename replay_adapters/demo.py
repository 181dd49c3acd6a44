"""The demonstration: two embedded pairs on one task, each without replay, with it, and the control.

The harness's own command line evaluates both pairs at once, a process for each, whose three arms
run one after the other. What it wrote is read back, compared item by item, and shown as one table
and one picture.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.run import RunLog
from replay_adapters.runs.vlmevalkit import journal_run
from replay_adapters.vlmevalkit.demo import TASK, demo_documents, demo_task, write_set
from replay_core import Outcome, UsageError
from replay_core.studies.figures import RunPanel, run_picture
from replay_core.studies.stats.paired import PairedComparison, compare

ARMS: dict[str, dict[str, str]] = {
    "none": {"replay_method": "none"},
    "replay": {"replay_method": "replay"},
    "random": {"replay_method": "replay", "replay_x": "random"},
}
"""Folder of an arm → its options; ``random`` puts noise of replay's norms in the place of its x."""

PAIRS = {
    "demo_narrow": (
        "the RL of demo, continued on two of five question types by a fast vision tower:",
        "better than its base, worse than demo; its visual activations are damaged.",
        "Found by a search for a pair that replay helps",
    ),
    "demo": (
        "RLVR on all five question types: the policy is better than its base, and hardly",
        "drifts at visual positions. There is nothing to repair",
    ),
}
"""Pair → what it is, in lines."""

# A model this small gains nothing from more threads, and waits for them on a busy machine.
_USUAL = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Evaluated:
    """One pair's runs, by arm, and how replay and its control differ from the policy alone."""

    pair: str
    runs: Mapping[str, RunLog]

    def against_none(self, arm: str) -> PairedComparison:
        """Return an arm's comparison with ``none``, item by item."""
        return compare(self.runs["none"].scores, self.runs[arm].scores)

    def totals(self, arm: str) -> Mapping[str, Any]:
        """Return what the plugin says that an arm's records add up to."""
        found: Mapping[str, Any] = self.runs[arm].settings["totals"]
        return found

    def panel(self) -> RunPanel:
        """Return what the picture shows."""
        losses = [
            (record["loss_before"], record["loss_after"])
            for record in self.runs["replay"].records
            if record["outcome"] == Outcome.APPLIED.value
        ]
        changed = {"replay": self.against_none("replay"), "random x": self.against_none("random")}
        return RunPanel(self.pair, losses, changed)


@dataclass(frozen=True)
class Process:
    """One pair's evaluation: a command to run, and how its files are read when it has ended."""

    pair: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    shown: str
    """The command as a user would type it."""
    bar: str
    """How the harness calls the progress bar of an arm."""
    read: Callable[[str], RunLog]
    """Arm → its run."""


def run_demo(output: Path, limit: int | None, batch_size: int, harness: str) -> str:
    """Evaluate both pairs and return the report.

    Writes below ``output``: for each pair a folder with what its process was told, its log, and the
    harness's own files; and ``replay.png``. ``limit`` is the number of items, None for all;
    ``harness`` is ``lmms-eval`` or ``vlmevalkit``, which answers one item at a time.

    Raises:
        UsageError: an evaluation failed; the sentence names its log.
    """
    processes = [
        _in_vlmevalkit(pair, output / pair, limit)
        if harness == "vlmevalkit"
        else _in_lmms_eval(pair, output / pair, limit, batch_size)
        for pair in PAIRS
    ]
    for process in processes:
        print(f"$ {process.shown}", flush=True)
    run_all(processes)
    found = [Evaluated(each.pair, {arm: each.read(arm) for arm in ARMS}) for each in processes]
    picture = output / "replay.png"
    run_picture(picture, [each.panel() for each in found])
    return report(harness, found, picture)


def _in_lmms_eval(pair: str, folder: Path, limit: int | None, batch_size: int) -> Process:
    import yaml

    common = {
        "model": "qwen2_vl_replay",
        "tasks": TASK,
        "batch_size": str(batch_size),
        "log_samples": True,
        **({} if limit is None else {"limit": limit}),
    }
    runs = [
        {
            **common,
            "model_args": ",".join(f"{k}={v}" for k, v in {"pair": pair, **options}.items()),
            "output_path": str(folder / arm),
        }
        for arm, options in ARMS.items()
    ]
    told = _write(folder / "lmms_eval.yaml", yaml.safe_dump(runs, sort_keys=False))
    return Process(
        pair,
        [sys.executable, "-m", "replay_adapters.lmms_eval.launcher", "--config", str(told)],
        folder / "lmms_eval.log",
        {**_USUAL, **os.environ},
        f"lmms_eval --config {told}",
        "Model Responding",
        lambda arm: read_runs(folder / arm, [TASK])[0],
    )


def _in_vlmevalkit(pair: str, folder: Path, limit: int | None) -> Process:
    documents = demo_documents()[:limit]
    write_set(folder / "LMUData" / f"{TASK}.tsv", documents)
    models = {
        f"{pair}-{arm}": {"class": "Qwen2VLChatReplay", "pair": pair, **options}
        for arm, options in ARMS.items()
    }
    data = {TASK: {"class": "CustomVQADataset", "dataset": TASK}}
    told = _write(folder / "run.json", json.dumps({"model": models, "data": data}, indent=2))
    # VLMEvalKit has no scorer for sets of one's own with free answers.
    given = ["--config", str(told), "--mode", "infer", "--work-dir", str(folder)]
    root = folder / "LMUData"
    quiet = {"PYTHONWARNINGS": "ignore", "LOGURU_LEVEL": "ERROR"}

    def score(index: int, answer: str) -> float:
        right: float = demo_task().score(answer, documents[index]["answer"])
        return right

    def read(arm: str) -> RunLog:
        folders = sorted(folder.glob(f"{pair}-{arm}-*"), key=lambda path: path.stat().st_mtime)
        return journal_run(folders[-1], TASK, score)

    return Process(
        pair,
        [sys.executable, "-m", "replay_adapters.vlmevalkit", *given],
        folder / "vlmevalkit.log",
        {"PRED_FORMAT": "tsv", **quiet, **_USUAL, **os.environ, "LMUData": str(root.resolve())},
        f"LMUData={root} vlmeval_replay {' '.join(given)}",
        f"Infer {pair}",
        read,
    )


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def run_all(processes: Sequence[Process]) -> None:
    """Run all at once; their output goes to their logs, and one bar shows how far all arms are."""
    from tqdm import tqdm

    running: list[subprocess.Popen[bytes]] = []
    try:
        for each in processes:
            with each.log.open("wb") as log:
                running.append(
                    subprocess.Popen(
                        each.command, stdout=log, stderr=subprocess.STDOUT, env=each.environment
                    )
                )
        shape = "{desc} |{bar}| {percentage:.0f}% {elapsed}"
        arms = len(ARMS) * len(processes)
        with tqdm(total=arms, bar_format=shape, desc=f"answering under {arms} arms") as bar:
            while any(process.poll() is None for process in running):
                time.sleep(0.2)
                bar.update(sum(arms_done(each) for each in processes) - bar.n)
                _check(processes, running)
            bar.update(arms - bar.n)
        _check(processes, running)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()


def arms_done(process: Process) -> float:
    """Return how many arms a process has answered, from the progress bars in its log."""
    bars = re.findall(
        rf"{process.bar}[^\r\n]*?(\d+)/(\d+) \[", process.log.read_text("utf-8", "ignore")
    )
    shares = [int(done) / int(total) for done, total in bars]
    finished = sum(later < earlier for earlier, later in pairwise(shares))
    return finished + (shares[-1] if shares else 0)


def _check(processes: Sequence[Process], running: Sequence[subprocess.Popen[bytes]]) -> None:
    for each, process in zip(processes, running, strict=True):
        if process.poll():
            raise UsageError(f"the evaluation of {each.pair} failed; its log is {each.log}")


def report(harness: str, found: Sequence[Evaluated], picture: Path) -> str:
    """Return the table, a column per pair, and the paths of what was written."""
    columns = [_column(each) for each in found]
    table = {label: [column[label] for column in columns] for label in columns[0]}
    first = max(map(len, table))
    widths = [max(len(row[n]) for row in table.values()) for n in range(len(columns))]
    lines = [
        "  ".join([f"  {label:<{first}}", *map(str.ljust, row, widths)]).rstrip()
        for label, row in table.items()
    ]
    name = max(map(len, PAIRS))
    what = [
        f"  {pair if not n else '':<{name}}  {line}"
        for pair, told in PAIRS.items()
        for n, line in enumerate(told)
    ]
    runs = [run for each in found for run in each.runs.values()]
    files = [f"  {path}" for run in runs for path in (*run.beside, run.path)]
    return "\n".join(
        [
            f"\nActivation Replay on {TASK}, in {harness}",
            *what,
            "  random x: noise of the norms of replay's x in its place (replay_x=random)",
            "",
            *lines,
            "\nFiles",
            *files,
            f"  {picture}\n",
        ]
    )


def _column(found: Evaluated) -> dict[str, str]:
    """Return label → cell of one pair."""
    none, replay, control = (found.totals(arm) for arm in ARMS)
    gained, noise = found.against_none("replay"), found.against_none("random")
    seconds = [
        sum(filter(None, each["seconds_per_sample"].values())) for each in (none, replay, control)
    ]
    return {
        "": found.pair,
        "items (n)": str(gained.n),
        "accuracy, none": f"{gained.accuracy_a:.3f}",
        "accuracy, replay": f"{gained.accuracy_b:.3f}",
        "accuracy, random x": f"{noise.accuracy_b:.3f}",
        "replay: fixed / broken": f"{gained.fixed} / {gained.broken}",
        "replay: exact McNemar p": f"{gained.p_value:.3g}",
        "random x: fixed / broken": f"{noise.fixed} / {noise.broken}",
        "random x: exact McNemar p": f"{noise.p_value:.3g}",
        "replay: masked KL (nats)": _losses(replay),
        "random x: masked KL (nats)": _losses(control),
        "replay: outcomes": _outcomes(replay),
        "random x: outcomes": _outcomes(control),
        "seconds: none / replay / random x": " / ".join(f"{each:.3f}" for each in seconds),
    }


def _losses(total: Mapping[str, Any]) -> str:
    if total["loss_before"] is None:
        return "applied to no sample"
    return f"{total['loss_before']:.3g} → {total['loss_after']:.3g}"


def _outcomes(total: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(total["outcomes"].items()))
