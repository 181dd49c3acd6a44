"""Kill real runs at random moments, go on behind them, and compare what they leave.

    python -m tests.benchmarks.kills [--harness lmms_eval] [--times 10] [--items 24]

Both harnesses answer the first documents of ``replay_demo`` with the embedded pair demo_narrow. A
run is killed with SIGKILL, and started again until it has been killed ``--kills-per-run`` times or
is done; then all its files have to be those of a run that nobody disturbed, seconds aside. A moment
is drawn from what is left to do: while the pair is loaded, or a random time behind a random line of
the journal, so that writes, scoring and the results file are hit, too. Each kill is a line of
``tests/benchmarks/results/kills.csv``; the exit code is 1 where anything was lost or differs.
"""

import argparse
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from replay_core.jsonl import finished_lines, read_lines
from tests.benchmarks.loop import git

RESULTS = Path(__file__).parent / "results" / "kills.csv"
# What a clock says, and no two runs share.
CLOCKED = ("seconds", "seconds_per_sample")


@dataclass(frozen=True)
class Harness:
    """A harness's command line, run in a folder, and how to read what it left there.

    ``kept`` are the lines that its journal holds, finished or not; ``left`` are results and records
    as they can be compared.
    """

    name: str
    words: Sequence[str]
    kept: Callable[[Path], list[dict[str, Any]]]
    left: Callable[[Path], tuple[Any, Any]]

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the command in a group of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "LMUData": str(folder.parent / "data"),
            "PRED_FORMAT": "tsv",
        }
        with (folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *self.words],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@dataclass
class Kill:
    """One kill: when it came, and what the journal held before the start, then, and later."""

    harness: str
    run: int
    seconds: float
    kept_at_start: int
    kept_at_kill: int
    cut_bytes: int
    lost: int = 0
    results_equal: bool = False
    records_equal: bool = False


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: what it left, and how long it took."""

    left: tuple[Any, Any]
    lines: int
    loading: float
    answering: float
    """Seconds from the first line to the end."""


@dataclass
class Killing:
    """One run that is killed again and again."""

    harness: Harness
    folder: Path
    whole: Undisturbed
    draw: random.Random
    kills: list[Kill] = field(default_factory=list)
    seen: list[list[dict[str, Any]]] = field(default_factory=list)

    def once(self, number: int) -> bool:
        """Start the run and kill it; return False where it was done before that."""
        begun = len(self.harness.kept(self.folder))
        target = self.draw.randint(begun, self.whole.lines)
        waits = 2 * self.whole.answering / self.whole.lines
        if target == begun:
            waits = self.whole.loading
        wait, started = self.draw.uniform(0, waits), time.monotonic()
        process = self.harness.start(self.folder)
        while process.poll() is None and len(self.harness.kept(self.folder)) < target:
            time.sleep(0.005)
        end = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        if process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seconds = time.monotonic() - started
        kept, cut = self.harness.kept(self.folder), _cut(self.folder)
        told = (round(seconds, 2), begun, len(kept), cut)
        self.kills.append(Kill(self.harness.name, number, *told))
        self.seen.append(kept)
        return True

    def finish(self) -> list[Kill]:
        """Let the run come to its end; return its kills, with what came of them."""
        _to_the_end(self.harness, self.folder)
        results, records = self.harness.left(self.folder)
        now = self.harness.kept(self.folder)
        for kill, kept in zip(self.kills, self.seen, strict=True):
            kill.lost = sum(line not in now for line in kept)
            kill.results_equal = results == self.whole.left[0]
            kill.records_equal = records == self.whole.left[1]
        return self.kills


def main() -> None:
    """Kill the runs of both harnesses, or of one, and write a line for each kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--harness", choices=["lmms_eval", "vlmevalkit"], action="append")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--kills-per-run", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    kills: list[Kill] = []
    for name in asked.harness or ["lmms_eval", "vlmevalkit"]:
        with tempfile.TemporaryDirectory() as folder:
            kills += kill(
                HARNESSES[name](asked.items),
                Path(folder),
                asked.times,
                asked.kills_per_run,
                random.Random(asked.seed),
            )
    _write(asked.output, kills, asked.items)
    bad = [k for k in kills if k.lost or not k.results_equal or not k.records_equal]
    cut = sum(k.cut_bytes > 0 for k in kills)
    print(f"{len(kills)} kills, {cut} within a line; {len(bad)} lost or changed something")
    sys.exit(bool(bad))


def kill(
    harness: Harness, folder: Path, times: int, per_run: int, draw: random.Random
) -> list[Kill]:
    """Return that many kills of runs of one harness."""
    from replay_adapters.vlmevalkit.demo import demo_documents, write_set

    write_set(folder / "data" / "replay_demo.tsv", demo_documents())
    whole = undisturbed(harness, folder / "whole")
    kills: list[Kill] = []
    number = 0
    while len(kills) < times:
        number += 1
        run = Killing(harness, folder / f"run{number}", whole, draw)
        for _ in range(min(per_run, times - len(kills))):
            if not run.once(number):
                break
        kills += run.finish()
        print(f"{harness.name}: {len(kills)} of {times} kills", flush=True)
    return kills


def undisturbed(harness: Harness, folder: Path) -> Undisturbed:
    """Return what a run leaves that nobody disturbs, and its times."""
    started = time.monotonic()
    process = harness.start(folder)
    while process.poll() is None and not harness.kept(folder):
        time.sleep(0.01)
    first = time.monotonic()
    _ended(process, folder)
    done = time.monotonic()
    kept = harness.kept(folder)
    return Undisturbed(harness.left(folder), len(kept), first - started, done - first)


def _to_the_end(harness: Harness, folder: Path) -> None:
    _ended(harness.start(folder), folder)


def _ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.wait(timeout=600) != 0:
        raise RuntimeError(
            f"exit code {process.returncode}: {(folder / 'log').read_text()[-3000:]}"
        )


def _cut(folder: Path) -> int:
    """Return how many bytes of an unfinished line stand in the journals."""
    journals = [folder / "answers", *folder.rglob("*.part")]
    contents = [path.read_bytes() for path in journals if path.is_file()]
    return sum(len(content) - content.rfind(b"\n") - 1 for content in contents)


def _write(path: Path, kills: Sequence[Kill], items: int) -> None:
    rows = [
        {"commit": git("rev-parse", "--short", "HEAD"), "items": items} | asdict(k) for k in kills
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _clockless(value: Any) -> Any:
    """Return plain data without what a clock said."""
    if isinstance(value, dict):
        return {name: _clockless(part) for name, part in value.items() if name not in CLOCKED}
    if isinstance(value, str):  # lmms-eval tells where its functions stood in memory
        return re.sub(r" at 0x[0-9a-f]+>", ">", value)
    return [_clockless(part) for part in value] if isinstance(value, list) else value


def _lmms_eval(items: int) -> Harness:
    given = "pair=demo_narrow,replay_steps=6,dtype=float32,replay_journal=answers"
    words = ["replay_adapters.lmms_eval.launcher", "--model", "qwen2_vl_replay"]
    words += ["--model_args", given, "--tasks", "replay_demo", "--limit", str(items)]
    words += ["--batch_size", "2", "--output_path", "out", "--log_samples"]
    # Of the results file, what a run comes to; beside it stand dates and speeds.
    come_to = ("results", "configs", "versions", "n-shot", "n-samples", "replay")

    def left(folder: Path) -> tuple[Any, Any]:
        (results,) = (folder / "out").rglob("*_results.json")
        (samples,) = (folder / "out").rglob("*_samples_replay_demo.jsonl")
        content = json.loads(results.read_text())
        told = _clockless({name: content[name] for name in come_to})
        return told, [_clockless(line) for line in finished_lines(samples)]

    return Harness("lmms_eval", words, lambda folder: read_lines(folder / "answers"), left)


def _vlmevalkit(items: int) -> Harness:
    words = ["replay_adapters.vlmevalkit", "--model", "demo_narrow-replay", "--data", "replay_demo"]
    words += ["--replay", "steps=6,dtype=float32", "--limit", str(items), "--mode", "infer"]
    words += ["--work-dir", "out"]

    def journals(folder: Path) -> list[Path]:
        return [*folder.glob("out/*/replay/*.jsonl"), *folder.glob("out/*/replay/*.part")]

    def kept(folder: Path) -> list[dict[str, Any]]:
        lines = {}
        for path in journals(folder):
            try:
                found = read_lines(path)
            except FileNotFoundError:  # a part whose set was finished meanwhile
                continue
            for line in found:
                line.pop("crc32", None)
                lines[line["index"]] = line
        return list(lines.values())

    def left(folder: Path) -> tuple[Any, Any]:
        (predictions,) = folder.glob("out/*/demo_narrow-replay-*_replay_demo.tsv")
        (records,) = folder.glob("out/*/replay/replay_demo.jsonl")
        more = [records.with_suffix(f".{name}.json") for name in ("totals", "rows")]
        told = [_clockless(json.loads(path.read_text())) for path in more]
        return [predictions.read_text(), *told], [_clockless(x) for x in finished_lines(records)]

    return Harness("vlmevalkit", words, kept, left)


HARNESSES = {"lmms_eval": _lmms_eval, "vlmevalkit": _vlmevalkit}

if __name__ == "__main__":
    main()
