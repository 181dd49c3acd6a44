"""Answer many demonstration items in one process of lmms-eval, and watch its memory.

    nice -n 10 python -m tests.benchmarks.soak [--samples 2000] [--batch-size 4]

Everything is the real harness and the embedded pair demo_narrow at its preset; the documents are
those of ``replay_demo``, drawn with its seed, as many as asked for. Every 50 samples a line goes to
``tests/benchmarks/results/soak.csv``. Worth quoting is the growth from sample 200 on: before it,
caches fill. ``tests/replay_adapters/lmms_eval/test_soak.py`` runs a short one.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.benchmarks.loop import git

RESULTS = Path(__file__).parent / "results" / "soak.csv"
TASK = "replay_demo_soak"
EVERY = 50


def main() -> None:
    """Run the soak and write its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(Path(folder), asked.samples, asked.batch_size)
    commit = git("rev-parse", "--short", "HEAD")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    with asked.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["commit", "batch_size", "samples", "rss_kib"])
        writer.writerows([commit, asked.batch_size, *line] for line in seen)
    warm = min(200, asked.samples // 3)
    first, last = (next(rss for n, rss in seen if n >= at) for at in (warm, seen[-1][0]))
    print(f"{asked.samples} samples: {first} KiB at sample {warm}, {last} KiB at the end")
    print(f"growth {100 * (last / first - 1):.2f}%")


def soak(folder: Path, samples: int, batch_size: int) -> list[tuple[int, int]]:
    """Run lmms-eval in this process; return (samples so far, resident memory in KiB)."""
    from replay_adapters.lmms_eval import launcher
    from replay_adapters.session.records import RecordBook

    given = f"pair={_pair(folder)},dtype=float32"
    sys.argv = ["lmms_eval", "--model", "qwen2_vl_replay", "--model_args", given]
    sys.argv += ["--tasks", TASK, "--include_path", str(_task(folder, samples))]
    sys.argv += ["--batch_size", str(batch_size), "--output_path", str(folder / "out")]
    seen: list[tuple[int, int]] = []
    process, add, counted = psutil.Process(), RecordBook.add, [0]

    def counting(book: RecordBook, *given: Any) -> None:
        add(book, *given)
        counted[0] += 1
        if counted[0] % EVERY == 0:
            seen.append((counted[0], process.memory_info().rss // 1024))

    RecordBook.add = counting  # type: ignore[method-assign]
    try:
        launcher.main()
    finally:
        RecordBook.add = add  # type: ignore[method-assign]
    return seen


def _pair(folder: Path) -> Path:
    """Return a file of the pair that answers other tasks than its own, too."""
    from replay_adapters.settings.pairs import read_pair

    fields = read_pair("demo_narrow").model_dump(mode="json", exclude_none=True)
    for own in ("tasks", "name"):
        fields.pop(own, None)
    file = folder / "soak.yaml"
    file.write_text(yaml.safe_dump(fields))
    return file


def _task(folder: Path, samples: int) -> Path:
    """Return the folder of a task with so many documents of replay_demo."""
    from replay_adapters.settings.resources import resource

    own, tasks = resource("tasks") / "replay_demo", folder / "tasks"
    (tasks / "splits").mkdir(parents=True)
    shutil.copy(own / "replay_demo.py", tasks)
    for split in ("test", "dev"):
        drawn = json.loads((own / "splits" / f"{split}.json").read_text())
        drawn |= {"count": samples} if split == "test" else {}
        (tasks / "splits" / f"{split}.json").write_text(json.dumps(drawn))
    text = (own / "replay_demo.yaml").read_text().replace("task: replay_demo", f"task: {TASK}")
    (tasks / f"{TASK}.yaml").write_text(text)
    return tasks


if __name__ == "__main__":
    main()
