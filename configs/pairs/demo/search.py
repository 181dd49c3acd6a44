"""Measure replay arms of one trained policy and add a row per arm to a table.

    python configs/pairs/demo/search.py --policy outputs/demo-pair/drifted-seed0 --split dev \
        --select low,all --threshold 0.2,0.4 --step-size 100,300,1000

Both the choice of hyper-parameters (development split) and the search for pairs that replay helps
are made with it; `search.csv` holds every arm that was measured, whatever it showed.
"""

from __future__ import annotations

import argparse
import csv
from itertools import product
from pathlib import Path

import measure
import paths
import torch
from checkpoint import task
from transformers import AutoProcessor

from replay_core import ReplayConfig, ReplayRecord, load_pair

HERE = Path(__file__).resolve().parent
FIELDS = (
    *("policy", "documents", "n", "noise", "base", "policy_accuracy"),
    *("method", "select", "threshold", "step_size", "layers"),
    *("accuracy", "gain", "fixed", "broken", "p", "loss_ratio", "reason"),
)


def arms(args: argparse.Namespace) -> list[ReplayConfig]:
    """The configurations to run."""
    found = []
    for select, layers in product(args.select, args.layers):
        # The threshold means nothing where every position is selected.
        for threshold in [0.4] if select == "all" else args.threshold:
            shared = {"select": select, "threshold": threshold, "layers": layers}
            if args.inject:
                found.append(ReplayConfig(method="inject", **shared))
            for step_size in args.step_size:
                config = ReplayConfig(
                    step_size=step_size, steps=args.steps, seed=args.seed, **shared
                )
                found.append(config)
                if args.random:
                    found.append(config.model_copy(update={"x": "random"}))
    return found


def documents(args: argparse.Namespace) -> list[dict]:
    """The documents that every arm answers."""
    if args.paths:
        seed, fold = (1, 1) if args.split == "dev" else (args.seed, 0)
        docs = paths.docs(seed, args.n, fold)
    elif args.split == "dev":
        docs = measure.split_docs("dev")[: args.n]
    else:
        docs = measure.fresh_docs(args.seed, args.n)
    return [doc | {"question_first": args.question_first} for doc in docs]


def main() -> None:
    """Run every arm against the policy alone, on the same documents."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    floats = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="default: base/ beside it")
    parser.add_argument("--split", choices=["dev", "fresh"], default="dev")
    parser.add_argument("--paths", action="store_true", help="questions about paths instead")
    parser.add_argument("--question-first", action="store_true", help="put it before the image")
    parser.add_argument("--seed", type=int, default=0, help="of fresh documents")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--select", type=lambda text: text.split(","), default=["all"])
    parser.add_argument("--threshold", type=floats, default=[0.4])
    parser.add_argument("--step-size", type=floats, default=[300.0])
    parser.add_argument("--layers", type=lambda t: [int(p) for p in t.split(",")], default=[4])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--inject", action="store_true", help="direct injection as well")
    parser.add_argument("--random", action="store_true", help="random x of the same norms as well")
    parser.add_argument("--noise", type=floats, help="pixel noise 'low,high' instead of the task's")
    parser.add_argument("--reason", default="", help="why this was tried, for the table")
    parser.add_argument("--table", type=Path, default=HERE / "search.csv")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.noise:
        task.NOISE = tuple(args.noise)
    docs = documents(args)
    base = args.base or args.policy.parent / "base"
    pair = load_pair(args.policy, base, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(args.policy)

    alone = {}
    for method in ("base", "none"):
        config = ReplayConfig(method=method)
        responses = measure.respond(pair, processor, docs, config, name=method)
        alone[method] = measure.scores(responses, docs)[:, 0]
    kinds = [doc["question_type"] for doc in docs]
    for method, right in alone.items():
        by = {k: [r for r, kind in zip(right, kinds, strict=True) if kind == k] for k in set(kinds)}
        shares = "  ".join(f"{k} {sum(by[k]) / len(by[k]):.3f}" for k in dict.fromkeys(kinds))
        print(f"{method:<6} {right.mean():.3f}  {shares}", flush=True)

    new = not args.table.exists()
    with args.table.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS)
        if new:
            table.writeheader()
        for config in arms(args):
            random = config.x == "random"
            records: list[ReplayRecord] = []
            responses = measure.respond(pair, processor, docs, config, name="arm", records=records)
            # A diverged sample has no loss after, and the control's losses are of noise.
            losses = [
                record.loss_after / record.loss_before
                for record in records
                if record.loss_before and record.loss_after is not None and not random
            ]
            outcome = measure.paired(alone["none"], measure.scores(responses, docs)[:, 0])
            row = {
                "policy": args.policy.name,
                "documents": ("dev" if args.split == "dev" else f"fresh {args.seed}")
                + (", paths" if args.paths else ""),
                "n": len(docs),
                "noise": "-".join(f"{value:g}" for value in task.NOISE),
                "base": f"{alone['base'].mean():.3f}",
                "policy_accuracy": f"{alone['none'].mean():.3f}",
                "method": "random x" if random else config.method,
                "select": config.select,
                "threshold": "" if config.select == "all" else config.threshold,
                "step_size": "" if config.method == "inject" else config.step_size,
                "layers": config.layers,
                "accuracy": f"{outcome.accuracy_b:.3f}",
                "gain": f"{outcome.accuracy_b - outcome.accuracy_a:+.3f}",
                "fixed": outcome.fixed,
                "broken": outcome.broken,
                "p": f"{outcome.p_value:.2g}",
                "loss_ratio": f"{sum(losses) / len(losses):.2f}" if losses else "",
                "reason": args.reason,
            }
            table.writerow(row)
            file.flush()
            print("  ".join(str(row[name]) for name in FIELDS[6:-1]), flush=True)


if __name__ == "__main__":
    main()
