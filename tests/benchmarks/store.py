"""Count the base's forwards, and seconds, of a grid over γ and α with and without a store.

    python -m tests.benchmarks.store [--pair demo_narrow] [--n 40] [--device cpu]

Three grids of 3 γ by 2 α: without a store, with an empty one, and again with the one that is then
full; no answers are taken over. Appends a line each to ``tests/benchmarks/results/store.csv``.
"""

import argparse
import csv
import platform
import tempfile
from pathlib import Path

import torch

from replay_adapters.lmms_eval.bench import LmmsEvalBench
from replay_core.model import call
from replay_core.studies.answers import run_arms
from replay_core.studies.arms import Arm
from tests.benchmarks.loop import git, timed

RESULTS = Path(__file__).parent / "results" / "store.csv"
GAMMAS, FACTORS = (0.2, 0.4, 0.7), (1 / 3, 1.0)


def main() -> None:
    """Run the benchmark and write its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="demo_narrow")
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("none", "empty", "full"):
            row, found = grid(asked, "" if name == "none" else folder)
            rows.append({"store": name, **row})
            losses.append(found)
    assert losses[0] == losses[1] == losses[2], "a store changed a loss"
    new = not RESULTS.exists()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


def grid(asked: argparse.Namespace, store: str) -> tuple[dict[str, object], list[object]]:
    """Return a line of the table, and every loss of every answer."""
    more = f",replay_store={store}" if store else ""
    bench = LmmsEvalBench(f"pair={asked.pair}{more}", "replay_demo_dev", device=asked.device)
    config = bench.config.changed(select="low")
    arms = [
        Arm(f"{gamma} {factor}", config.changed(threshold=gamma, step_size=alpha))
        for gamma in GAMMAS
        for factor in FACTORS
        for alpha in (config.step_size * factor,)
    ]
    forwards = {"base": 0, "policy": 0}
    run = call.DecoderCall.activations

    def counting(self, *args, **kwargs):
        forwards["policy" if self.anatomy is bench.pair.policy else "base"] += 1
        return run(self, *args, **kwargs)

    call.DecoderCall.activations = counting
    try:
        with tempfile.TemporaryDirectory() as answers:
            documents = bench.documents(asked.n)
            found, seconds = timed(
                lambda: run_arms(bench, Path(answers), arms, documents), asked.device
            )
    finally:
        call.DecoderCall.activations = run
    row = {
        "commit": git("rev-parse", "--short", "HEAD"),
        "device": platform.processor() or asked.device,
        "pair": asked.pair,
        "documents": asked.n,
        "batch_size": bench.batch_size,
        "settings": len(arms),
        "base_forwards": forwards["base"],
        "policy_forwards": forwards["policy"],
        "base_loaded": getattr(bench.pair.base, "loaded", True),
        "seconds": f"{seconds:.2f}",
        "seconds_of_the_base": f"{sum(one.record.seconds.base for one in found):.2f}",
        "seconds_of_the_loop": f"{sum(one.record.seconds.loop for one in found):.2f}",
    }
    return row, [one.losses for one in found]


if __name__ == "__main__":
    main()
