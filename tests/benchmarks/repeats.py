"""Several answers to each item: what finding x takes beside what it takes for one answer.

    python -m tests.benchmarks.repeats [--answers 16] [--limit 40] [--rounds 3]

The real harness, in processes of its own, on the embedded pair demo_narrow and the task
replay_demo: lmms-eval with --num_samples K and with 1, in turn. The seconds are those of the
records, the base's pass and the loop of all answers together; a line for each round goes to
``tests/benchmarks/results/repeats.csv``. They are seconds of the process, not of the clock: other
work on the machine would weigh more than what is asked here.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from replay_core.jsonl import finished_lines
from tests.benchmarks.timing import RESULTS, where, write

PAIR, TASK = "demo_narrow", "replay_demo"
# lmms-eval as a user starts it, but for the clock that the records are timed by.
PROGRAM = """
import time
time.perf_counter = time.process_time
from replay_adapters.lmms_eval import launcher
launcher.main()
"""


def main(
    answers: Annotated[int, typer.Option(min=2, help="K, answers to each item")] = 16,
    limit: Annotated[int, typer.Option(min=1, help="items")] = 40,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    output: Annotated[Path, typer.Option(help="where the CSV goes")] = RESULTS / "repeats.csv",
) -> None:
    """Measure, print and write one row for each round."""
    torch.set_num_threads(1)
    place, rows = where("cpu", torch.float32), []
    for number in range(rounds):
        one, several = (records(k, limit, batch_size) for k in (1, answers))
        single, shared = seconds(one), seconds(several)
        rows.append(
            {
                **place,
                "pair": PAIR,
                "items": limit,
                "batch_size": batch_size,
                "round": number,
                "answers": answers,
                "descents_for_one": descents(one),
                "descents_for_all": descents(several),
                "one_cpu_s": f"{single:.3f}",
                "all_cpu_s": f"{shared:.3f}",
                "all_over_one": f"{shared / single:.3f}",
            }
        )
        print(rows[-1], flush=True)
        write(output, rows)


def records(answers: int, limit: int, batch_size: int) -> list[dict[str, Any]]:
    """Return the record of every answer of a run with so many answers to each item."""
    words = [sys.executable, "-c", PROGRAM]
    words += ["--model", "qwen2_vl_replay", "--model_args", f"pair={PAIR},dtype=float32"]
    words += ["--tasks", TASK, "--limit", str(limit), "--batch_size", str(batch_size)]
    words += ["--num_samples", str(answers), "--gen_kwargs", "temperature=1", "--log_samples"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*words, "--output_path", folder], check=True, env=environment, stdout=sys.stderr
        )
        (path,) = Path(folder).rglob("*_samples_*.jsonl")
        rows = finished_lines(path)
    found = [record for row in rows for record in row["replay"]]
    if len(found) != answers * limit:
        raise RuntimeError(f"{len(found)} records, not {answers} of each of {limit} items")
    return found


def seconds(found: list[dict[str, Any]]) -> float:
    """Return what finding x took, in all answers together."""
    return sum(each["seconds"]["base"] + each["seconds"]["loop"] for each in found)


def descents(found: list[dict[str, Any]]) -> int:
    """Return for how many answers a loop ran."""
    return sum(each["seconds"]["loop"] > 0 for each in found)


if __name__ == "__main__":
    typer.run(main)
