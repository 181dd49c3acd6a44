"""Measure every gate of the embedded pairs on scenes rendered with any seed.

    python configs/pairs/demo/evaluate.py --seed 31415 --n 2000

The checkpoints and the replay settings are those of the pair files demo.yaml, demo_narrow.yaml
and demo_drifted.yaml. The bf16 weights are read into float32 arithmetic, which is what the pair
files ask of a harness, too.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import measure
import numpy as np
import torch
from checkpoint import GUESS, task
from transformers import AutoProcessor, Qwen2_5_VLProcessor

from replay_adapters.settings.pairs import read_pair
from replay_core import Pair, ReplayConfig, load_pair

PAIRS = ("demo", "demo_narrow", "demo_drifted")
SAMPLES = 8
GAMMAS = (0.1, 0.2, 0.4, 0.7)


@dataclass(frozen=True)
class Gate:
    """One requirement, what was found, and whether that is enough."""

    pair: str
    what: str
    found: str
    passed: bool


class Measured:
    """A shipped pair on one set of documents; every arm is answered once and kept."""

    def __init__(self, name: str, docs: Sequence[dict], seed: int) -> None:
        self.file = read_pair(name)
        self.docs, self.seed = docs, seed
        self.pair: Pair = load_pair(self.file.policy, self.file.base, dtype=torch.float32)
        self.processor: Qwen2_5_VLProcessor = AutoProcessor.from_pretrained(self.file.policy)
        self._kept: dict[str, np.ndarray] = {}

    def arm(self, name: str, *, k: int = 1, blank: bool = False, **how):
        """(documents, k) scores under the pair file's replay settings, changed by `how`."""
        if name not in self._kept:
            config = ReplayConfig(**{**self.file.replay, "seed": self.seed, **how})
            responses = measure.respond(
                self.pair, self.processor, self.docs, config, k=k, blank=blank, name=name
            )
            self._kept[name] = right = measure.scores(responses, self.docs)
            guesses = np.mean([GUESS in row[0] for row in responses])
            kinds = np.array([doc["question_type"] for doc in self.docs])
            by = "  ".join(f"{t} {right[kinds == t].mean():.3f}" for t in task.QUESTION_TYPES)
            print(f"{self.file.name}: {name:<22} {right.mean():.3f}  {by}  guesses {guesses:.2f}")
        return self._kept[name]

    def against_policy(self, name: str, **how):
        """The paired comparison of an arm with the policy alone."""
        return measure.paired(self.arm("policy", method="none")[:, 0], self.arm(name, **how)[:, 0])


def shown(outcome) -> str:
    """A paired comparison in a line."""
    return (
        f"{outcome.accuracy_a:.3f} -> {outcome.accuracy_b:.3f}, {outcome.fixed} fixed, "
        f"{outcome.broken} broken, p = {outcome.p_value:.2g}"
    )


def chance(docs: Sequence[dict]) -> float:
    """Accuracy of the best constant answer to each question type."""
    kinds: dict[str, Counter] = defaultdict(Counter)
    for doc in docs:
        kinds[doc["question_type"]][doc["answer"]] += 1
    return sum(max(counts.values()) for counts in kinds.values()) / len(docs)


def demo_gates(docs: Sequence[dict], seed: int) -> list[Gate]:
    """What the pair `demo` must show: RLVR that helps, and a base whose certainty is spread."""
    demo = Measured("demo", docs, seed)
    base = demo.arm("base", method="base")[:, 0]
    blank = demo.arm("base, blank images", method="base", blank=True).mean()
    gain = measure.paired(base, demo.arm("policy", method="none")[:, 0])
    many = {
        name: demo.arm(f"{name}, {SAMPLES} samples", method=method, k=SAMPLES)
        for name, method in (("base", "base"), ("policy", "none"))
    }
    narrowed = measure.paired(many["base"].max(1), many["policy"].max(1))
    entropy, guess = measure.base_lens(demo.pair, demo.processor, docs[:500])
    share = {gamma: measure.selected_share(entropy, gamma) for gamma in GAMMAS}
    selects = "/".join(f"{share[gamma]:.3f}" for gamma in GAMMAS)
    named = measure.lens_accuracy(guess, demo.processor, docs[:500])
    best = chance(docs)
    passed = [
        ("base greedy within 0.30..0.75", f"{base.mean():.3f}", 0.3 <= base.mean() <= 0.75),
        (
            "base on blank images at most 0.05 above the best constant answers",
            f"{blank:.3f}, best constant {best:.3f}",
            blank <= best + 0.05,
        ),
        (
            "policy at least 0.08 above its base, p < .001",
            shown(gain),
            gain.accuracy_b - gain.accuracy_a >= 0.08 and gain.p_value < 1e-3,
        ),
        (
            f"Pass@{SAMPLES} narrows",
            f"{shown(narrowed)}; Pass@1 {many['base'].mean():.3f} -> {many['policy'].mean():.3f}",
            narrowed.accuracy_b < narrowed.accuracy_a,
        ),
        (
            "gamma .2 -> .7 moves the selected share by at least 0.20",
            f"gamma .1/.2/.4/.7 selects {selects}; the lens names {named:.3f} of the cells",
            share[0.7] - share[0.2] >= 0.2,
        ),
    ]
    # No gate: what replay does to a policy whose visual activations hardly drifted.
    replay = demo.against_policy("replay")
    print(f"demo: replay with the pair file's settings: {shown(replay)}")
    return [Gate("demo", what, found, bool(ok)) for what, found, ok in passed]


def repair_gates(name: str, docs: Sequence[dict], seed: int) -> list[Gate]:
    """What a pair whose visual features were damaged must show: replay repairs them.

    On `demo_drifted`, the instrument's positive control, both readings of injection must, too;
    `demo_narrow` must be good RLVR.
    """
    here = Measured(name, docs, seed)
    base = here.arm("base", method="base")[:, 0]
    gain = measure.paired(base, here.arm("policy", method="none")[:, 0])
    arms = {
        "injection": here.against_policy("injection", method="inject", select="all"),
        "before": here.against_policy(
            "injection before layers",
            **{"method": "inject", "select": "all", "boundary": "reference"},
            **{"positions": "visual", "thresholds": "dynamic"},
        ),
        "replay": here.against_policy("replay"),
        "random x": here.against_policy("random x of the same norms", x="random"),
    }
    repairs = {n: a.fixed > a.broken and a.p_value < 1e-3 for n, a in arms.items()}
    helps = arms["random x"].fixed > arms["random x"].broken and arms["random x"].p_value < 0.05
    found = {arm: shown(outcome) for arm, outcome in arms.items()}
    after = measure.paired(base, here.arm("replay")[:, 0])
    print(f"{name}: base to policy: {shown(gain)}; base to policy + replay: {shown(after)}")
    passed = [
        ("replay repairs, p < .001", found["replay"], repairs["replay"]),
        ("random x of the same norms does not", found["random x"], not helps),
    ]
    if name == "demo_drifted":
        passed += [
            (
                "injection at visual positions repairs, p < .001",
                found["injection"],
                repairs["injection"],
            ),
            (
                "injection before the layers (reference) repairs, p < .001",
                found["before"],
                repairs["before"],
            ),
        ]
    else:
        above = gain.fixed > gain.broken and gain.p_value < 0.05
        passed.append(("policy above its base, p < .05", shown(gain), above))
    return [Gate(name, what, told, bool(ok)) for what, told, ok in passed]


def main() -> None:
    """Command line: documents in, a line per gate out; exit status 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and of sampled answers")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument(
        "--split", choices=["fresh", "dev", "test"], default="fresh", help="a committed one instead"
    )
    parser.add_argument("--pair", choices=[*PAIRS, "all"], default="all")
    parser.add_argument("--output", type=Path, help="JSON file for the gates")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.split == "fresh":
        docs = measure.fresh_docs(args.seed, args.n)
    else:
        docs = measure.split_docs(args.split)[: args.n]
    gates: list[Gate] = []
    for name in PAIRS if args.pair == "all" else [args.pair]:
        of_demo = name == "demo"
        gates += demo_gates(docs, args.seed) if of_demo else repair_gates(name, docs, args.seed)
    print(f"\n{args.split} documents, seed {args.seed}, n = {len(docs)}")
    for gate in gates:
        print(f"{'pass' if gate.passed else 'MISS'}  {gate.pair}: {gate.what}: {gate.found}")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"split": args.split, "seed": args.seed, "n": len(docs)}
        content["gates"] = [asdict(gate) for gate in gates]
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if all(gate.passed for gate in gates) else 1)


if __name__ == "__main__":
    main()
