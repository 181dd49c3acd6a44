"""Time the loop against the method spelled out, interleaved in one run.

    python -m tests.benchmarks.loop [--rounds 5] [--device cpu]

The alternative is the oracle of the tests: the whole policy, from pixels to logits over the whole
vocabulary, at each step. Both compute the same x (checked). Appends a line to
``tests/benchmarks/results/loop.csv``; only the ratio is worth quoting, since machines are noisy.
"""

import argparse
import csv
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from replay_core import ReplayConfig, Steered, load_pair
from tests.support import tiny
from tests.support.oracle import oracle_replay

RESULTS = Path(__file__).parent / "results" / "loop.csv"
SIZE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 14, "vocab_size": 16384}
SETTINGS = {"layers": 8, "threshold": 0.7, "step_size": 0.1, "steps": 25}


def main() -> None:
    """Run the benchmark and write its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = tiny.make_pair(Path(folder), "qwen2_5_vl", **SIZE)
        pair = load_pair(files.policy, files.base, device_map=asked.device)
        steered = Steered(pair, ReplayConfig(**SETTINGS))
        inputs = tiny.make_batch(tiny.load_processor(files.policy), "two_images").to(asked.device)
        ours, spelled = [], []
        for _ in range(asked.rounds):
            result, seconds = timed(lambda: steered.optimise(inputs), asked.device)
            ours.append(seconds)
            oracle, seconds = timed(lambda: spelled_out(pair, inputs, steered.layers), asked.device)
            spelled.append(seconds)
    gap = ((result.delta - oracle.delta).norm() / oracle.delta.norm()).item()
    row = {
        "commit": git("rev-parse", "--short", "HEAD"),
        "device": platform.processor() or asked.device,
        "dtype": "float32",
        "threads": 1,
        **SIZE,
        **SETTINGS,
        "visual_tokens": result.samples[0].visual_tokens,
        "rounds": asked.rounds,
        "ours_s": f"{statistics.median(ours):.3f}",
        "spelled_out_s": f"{statistics.median(spelled):.3f}",
        "ratio": f"{statistics.median(spelled) / statistics.median(ours):.2f}",
        "relative_gap_of_x": f"{gap:.1e}",
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


def spelled_out(pair, inputs, layers):
    """Return what the oracle computes, everything at every step."""
    return oracle_replay(
        pair.policy.model,
        pair.base.model,
        inputs,
        boundary="aligned",
        top_k=50,
        layers=layers,
        threshold=SETTINGS["threshold"],
        step_size=SETTINGS["step_size"],
        steps=SETTINGS["steps"],
    )


def timed(call, device):
    """Return the call's result and its wall-clock seconds."""
    started = time.perf_counter()
    result = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def git(*words: str) -> str:
    """Return one line of git's answer."""
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
