"""The demonstration: the embedded pair on its task, replay off and on, compared item by item."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from replay_adapters.lmms_eval.results import Run, read_run
from replay_core import UsageError
from replay_core.studies.figures import run_picture
from replay_core.studies.stats.paired import PairedComparison, compare

TASK, METRIC = "replay_demo", "accuracy"
ARMS = ("none", "replay")


def run_demo(output: Path, limit: int | None, batch_size: int) -> str:
    """Run both arms through lmms-eval's command line and return the report.

    Writes below ``output``: a folder per arm with the harness's own files and its log, and
    ``replay.png``. ``limit`` is the number of items, None for all.

    Raises:
        UsageError: an evaluation failed; the sentence names its log.
    """
    runs = {arm: _evaluate(arm, output / arm, limit, batch_size) for arm in ARMS}
    comparison = compare(runs["none"].scores(METRIC), runs["replay"].scores(METRIC))
    losses = [
        (record["loss_before"], record["loss_after"])
        for record in runs["replay"].records()
        if record["outcome"] == "applied"
    ]
    picture = output / "replay.png"
    run_picture(picture, losses, comparison, ("none", "replay"))
    files = [path for arm in ARMS for path in (runs[arm].results_file, runs[arm].samples_file)]
    totals = {arm: run.replay["totals"] for arm, run in runs.items()}
    return report(TASK, totals, comparison, [*files, picture])


def _evaluate(arm: str, folder: Path, limit: int | None, batch_size: int) -> Run:
    """Run one arm; its progress bar goes to the terminal, the rest to a log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "lmms_eval.log"
    command = [sys.executable, "-m", "replay_adapters.lmms_eval.launcher"]
    command += ["--model", "qwen2_vl_replay", "--model_args", f"replay_method={arm}"]
    command += ["--tasks", TASK, "--batch_size", str(batch_size)]
    command += ["--output_path", str(folder), "--log_samples"]
    if limit is not None:
        command += ["--limit", str(limit)]
    print(f"\n$ lmms_eval {' '.join(command[3:])}", flush=True)
    # A model this small gains nothing from more threads, and waits for them on a busy machine.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with log.open("w", encoding="utf-8") as out:
        ended = subprocess.run(command, stdout=out, env=environment, check=False)
    if ended.returncode:
        raise UsageError(f"the evaluation with replay_method={arm} failed; its log is {log}")
    return read_run(folder, TASK)


def report(
    title: str,
    totals: Mapping[str, Mapping[str, Any]],
    comparison: PairedComparison,
    files: Iterable[Path],
) -> str:
    """Return the paired table and the paths of what was written; ``totals`` are by arm."""
    total = totals["replay"]
    seconds = total["seconds_per_sample"]
    plain = totals["none"]["seconds_per_sample"]["decode"]
    outcomes = ", ".join(f"{name} {n}" for name, n in sorted(total["outcomes"].items()))
    loss = (
        f"{total['loss_before']:.3g} → {total['loss_after']:.3g} nats"
        if total["loss_before"] is not None
        else "replay was applied to no sample"
    )
    lines = [
        ("items (n)", str(comparison.n)),
        ("accuracy, replay_method=none", f"{comparison.accuracy_a:.3f}"),
        ("accuracy, replay_method=replay", f"{comparison.accuracy_b:.3f}"),
        ("fixed / broken", f"{comparison.fixed} / {comparison.broken}"),
        ("exact McNemar p", f"{comparison.p_value:.3g}"),
        ("masked KL before → after", loss),
        ("outcomes", outcomes),
        (
            "seconds per sample",
            f"base pass {seconds['base']:.3f}, loop {seconds['loop']:.3f}, "
            f"decoding {seconds['decode']:.3f} (none: {plain:.3f})",
        ),
    ]
    width = max(len(label) for label, _ in lines)
    table = "\n".join(f"  {label:<{width}}  {value}" for label, value in lines)
    paths = "\n".join(f"  {path}" for path in files)
    return f"\nActivation Replay on {title}\n{table}\n\nFiles\n{paths}\n"
