"""Replay at a 7B model's real shape on one accelerator: seconds, memory, share of the matmul rate.

    python -m tests.benchmarks.gpu [--tokens 256 --tokens 1000 …] [--output FILE]

Two random bf16 models of Qwen2.5-VL-7B's shape, one image of N visual tokens, 16 layers, 25 steps,
ρ = 0.5. Ours and the release's order of work run in turn on the same card; the matmul rate is
measured in the same run. What does not fit is written down as such.
"""

import gc
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from replay_core import ReplayConfig, Steered
from replay_core.pair.pair import Pair
from tests.benchmarks.closed_form import CAUSAL, Costs, Work, least_work, release_order
from tests.benchmarks.release_order import ReleaseOrder
from tests.benchmarks.shapes import QWEN2_5_VL_7B, SMALL, Prompt, Shape, random_pair, thresholds_for
from tests.benchmarks.timing import RESULTS, Measured, timed, where, write

LAYERS, STEPS, MASKED = 16, 25, 0.5
BEFORE, BEHIND, ANSWER = 170, 110, 512


def main(
    tokens: Annotated[list[int] | None, typer.Option(help="visual tokens of the image")] = None,
    output: Annotated[Path, typer.Option(help="where the CSV goes")] = RESULTS / "gpu.csv",
    device: str = "cuda",
    rounds: int = 3,
    answer: Annotated[int, typer.Option(help="tokens that are decoded and timed")] = ANSWER,
    small: Annotated[bool, typer.Option(help="a tiny shape, to try the script")] = False,
) -> None:
    """Measure, print and write one row for each number of visual tokens."""
    shape, dtype = (SMALL, torch.float32) if small else (QWEN2_5_VL_7B, torch.bfloat16)
    pair = random_pair(shape, device=device, dtype=dtype)
    rate = matmul_rate(device, dtype, 512 if small else 8192)
    print(f"matmul {rate / 1e12:.1f} TFLOP/s", flush=True)
    rows = []
    for visual in tokens or [256, 1000, 2048, 16384]:
        row = measure(pair, shape, visual, rate, device, dtype, rounds=rounds, answer=answer)
        rows.append({**where(device, dtype), **row})
        print(row, flush=True)
        write(output, rows)


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Return operations a second of a square matrix product, the median of ten."""
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    left @ right
    seconds = [timed(lambda: left @ right, device).seconds for _ in range(10)]
    return 2 * size**3 / statistics.median(seconds)


def measure(
    pair: Pair,
    shape: Shape,
    visual: int,
    rate: float,
    device: str,
    dtype: torch.dtype,
    *,
    rounds: int,
    answer: int,
) -> dict[str, Any]:
    """Return one row: N visual tokens, ours and the release's order interleaved."""
    prompt = Prompt(BEFORE, visual, BEHIND)
    inputs = prompt.inputs(shape, device, dtype)
    layers = min(LAYERS, shape.num_hidden_layers - 1)
    targets = Steered(pair, ReplayConfig(layers=layers, threshold=1)).targets(inputs)
    thresholds = thresholds_for(targets.entropies, MASKED)
    del targets
    config = ReplayConfig(layers=layers, thresholds=thresholds, steps=STEPS)
    steered = Steered(pair, config)
    plain = ReleaseOrder(pair, thresholds, steps=STEPS, step_size=config.step_size)
    rounds = 1 if visual > 4096 else rounds
    ours, theirs = [], []
    for number in range(rounds + (visual <= 4096)):  # the first of several warms up
        mine = fitting(lambda: steered.optimise(inputs), device)
        other = fitting(lambda: plain.run(inputs), device)
        if number > 0 or rounds == 1:
            ours.append(mine)
            theirs.append(other)
    result = ours[-1].value
    del mine, other
    answering = {"max_new_tokens": answer, "min_new_tokens": answer}
    decoding = timed(lambda: steered.decode(inputs, result, **answering), device)
    work = Work(prompt, layers, STEPS, MASKED)
    costs = Costs(shape, CAUSAL)
    least, release = least_work(costs, work), release_order(costs, work)
    loop = statistics.median(run.value.seconds.loop for run in ours)
    base = statistics.median(run.value.seconds.base for run in ours)
    slower = [run.seconds for run in theirs if run is not None]
    ratio = statistics.median(slower) / (loop + base) if slower else None
    sample = result.samples[0]
    return {
        "visual_tokens": visual,
        "layers": layers,
        "steps": STEPS,
        "masked": f"{sum(share for _, share in sample.masked_fraction) / layers:.3f}",
        "rounds": rounds,
        "outcome": sample.outcome.value,
        "base_s": f"{base:.3f}",
        "loop_s": f"{loop:.3f}",
        "release_order_s": f"{statistics.median(slower):.3f}" if slower else "out of memory",
        "release_over_ours": "" if ratio is None else f"{ratio:.2f}",
        "decode_s": f"{decoding.seconds:.3f}",
        "decoded_tokens": answer,
        # Of 512 tokens, at the seconds a token that were measured.
        "replay_over_decoding_512": f"{(base + loop) / decoding.seconds * answer / ANSWER:.3f}",
        "peak_mb": shown(ours[-1].peak_mb),
        "release_order_peak_mb": shown(theirs[-1].peak_mb) if slower else "out of memory",
        "estimated_mb": shown(result.memory.needed_mb),
        "checkpointing": result.memory.recompute,
        "cuda_graph": result.memory.graph,
        "loop_tflop": f"{(least['loop'] + least['lens']) / 1e12:.2f}",
        "release_order_tflop": f"{sum(release.values()) / 1e12:.2f}",
        "matmul_tflops": f"{rate / 1e12:.1f}",
        "share_of_matmul_rate": f"{(least['loop'] + least['lens']) / loop / rate:.3f}",
    }


def fitting(call: Callable[[], Any], device: str) -> Measured | None:
    """Return what :func:`timed` does; None where memory does not suffice."""
    gc.collect()
    if device == "cpu":
        return timed(call, device)
    torch.cuda.empty_cache()
    try:
        return timed(call, device)
    except torch.cuda.OutOfMemoryError:
        return None


def shown(value: float | None) -> str:
    """Return MiB without decimals; nothing where there is no figure."""
    return "" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    typer.run(main)
