"""Tokens per second with replay, answers written by transformers and by vLLM, loop included.

    python -m tests.benchmarks.vllm [--items 128] [--tokens 128] [--device cpu]

Wants an environment with vLLM. A random Qwen2.5-VL of 46 M parameters, in float32 on the CPU and in
bfloat16 on a GPU; every answer has the same length. Appends a line for each way to
``tests/benchmarks/results/vllm.csv``: the loop alone, transformers in batches, vLLM batch after
batch, and vLLM while the next batches are optimised. ``--pair`` takes a pair of your own, as
``policy,base``.
"""

import argparse
import csv
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from replay_adapters.session.overlap import overlapped
from replay_core import Pair, ReplayConfig, Steered, load_pair
from replay_core.decoding.engine import engine_for
from replay_core.decoding.options import EngineOptions
from replay_core.decoding.vllm import VllmDecoder
from tests.benchmarks.loop import git, timed
from tests.support import tiny

RESULTS = Path(__file__).parent / "results" / "vllm.csv"
SIZE = {
    **{"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10},
    **{"vocab_size": 16384, "head_dim": 64},
}
SETTINGS = {"layers": 6, "threshold": 0.7, "step_size": 0.1, "steps": 5}


def main() -> None:
    """Run the benchmark and write its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pair")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.1)
    parser.add_argument("--enforce-eager", action="store_true")
    asked = parser.parse_args()
    if asked.device == "cpu":
        torch.set_num_threads(1)
    dtype = "float32" if asked.device == "cpu" else "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        if asked.pair:
            policy, base = asked.pair.split(",")
        else:
            policy, base = map(str, tiny.make_pair(Path(folder), "qwen2_5_vl", **SIZE))
        pair = load_pair(policy, base, dtype=dtype, device_map=asked.device)
        options = EngineOptions(
            gpu_memory_utilization=asked.gpu_memory_utilization,
            enforce_eager=asked.enforce_eager,
            max_model_len=1024,
        )
        engine = engine_for(policy, policy, dtype, options)
        lines = list(measured(pair, policy, VllmDecoder(engine), asked))
        engine.close()
    parameters = sum(weight.numel() for weight in pair.policy.model.parameters())
    about = {
        "commit": git("rev-parse", "--short", "HEAD"),
        "device": platform.processor() or asked.device,
        "vllm": engine.name,
        "torch": torch.__version__,
        "dtype": dtype,
        "parameters_m": f"{parameters / 1e6:.0f}",
        "items": asked.items,
        "tokens": asked.tokens,
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, {**about, **lines[0]})
        if new:
            writer.writeheader()
        writer.writerows({**about, **line} for line in lines)


def measured(pair: Pair, policy: str, decoder: VllmDecoder, asked: argparse.Namespace) -> Any:
    """Yield a line of the table for each way; the answers are counted against the first's."""
    config = ReplayConfig(**SETTINGS)
    processor = tiny.load_processor(Path(policy))
    how = {"do_sample": False, "max_new_tokens": asked.tokens, "min_new_tokens": asked.tokens}
    first: list[list[int]] = []

    def line(name: str, batch: int, run: Callable[[], Any]) -> dict[str, object]:
        found, seconds = timed(run, asked.device)
        tokens = asked.items * asked.tokens if found else 0
        same = sum(a == b for a, b in zip(found, first, strict=True)) if found and first else ""
        told = {
            "way": name,
            "batch": batch,
            "seconds": f"{seconds:.1f}",
            "tokens_per_second": f"{tokens / seconds:.0f}",
            "equal_answers": same,
        }
        print(told, flush=True)
        if found and not first:
            first.extend(found)
        return told

    for batch in asked.batches:
        batches = [
            tiny.make_inputs(
                processor,
                images=[tiny.pictures(number)[:1] for number in range(start, start + batch)],
                questions=["How many circles are in the picture?"] * batch,
            ).to(asked.device)
            for start in range(0, asked.items, batch)
        ]

        def answered(steered: Steered, inputs: Any) -> list[list[int]]:
            ids = steered.decode(inputs, steered.optimise(inputs), **how)
            return ids[:, inputs["input_ids"].shape[1] :].tolist()

        def jobs(
            steered: Steered, batches: list[Any] = batches
        ) -> list[Callable[[], list[list[int]]]]:
            return [lambda inputs=one: answered(steered, inputs) for one in batches]

        def one_by_one(steered: Steered, jobs: Any = jobs) -> list[list[int]]:
            return [text for job in jobs(steered) for text in job()]

        def all_at_once(steered: Steered, batch: int = batch, jobs: Any = jobs) -> list[list[int]]:
            made = overlapped(decoder, jobs(steered), each=batch)
            return [text for texts in made for text in texts]

        plain, served = Steered(pair, config), Steered(pair, config, decoder)
        yield line("the loop alone", batch, lambda b=batches, s=plain: loop(s, b))
        yield line("transformers", batch, lambda s=plain, run=one_by_one: run(s))
        yield line("vllm, batch after batch", batch, lambda s=served, run=one_by_one: run(s))
        yield line("vllm, overlapped", batch, lambda s=served, run=all_at_once: run(s))


def loop(steered: Steered, batches: list[Any]) -> list[list[int]]:
    """Find x of every batch, and answer none."""
    for inputs in batches:
        steered.optimise(inputs)
    return []


if __name__ == "__main__":
    main()
