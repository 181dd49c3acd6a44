"""Train the embedded pairs on one CPU thread: a base, then policies by RL with verifiable rewards.

The shipped checkpoints come from these commands (about 20 minutes for the base, 1 to 4 for a
policy, on one thread):

    python configs/pairs/demo/train.py base --phase base-plain   # supervised, with a lens loss
    python configs/pairs/demo/train.py base --phase base-habits  # the same, with more guesses
    python configs/pairs/demo/train.py base --phase base-paths   # and with a sixth type of question
    python configs/pairs/demo/train.py export --run base-paths --name base
    python configs/pairs/demo/train.py rl --recipe demo --seed 1           # GRPO, all types
    python configs/pairs/demo/train.py export --run demo-seed1 --name policy
    python configs/pairs/demo/train.py sft --recipe demo --seed 0          # as long, without RL
    python configs/pairs/demo/train.py export --run demo-sft-seed0 --name sft
    python configs/pairs/demo/train.py rl --recipe narrow-fast --seed 0    # what it sees drifts
    python configs/pairs/demo/train.py export --run narrow-fast-seed0 --name narrow
    python configs/pairs/demo/train.py rl --recipe drifted-4e-3 --seed 0   # destructive, on purpose
    python configs/pairs/demo/train.py export --run drifted-4e-3-seed0 --name drifted

Each run writes a log of its own into logs/. A policy starts from what was exported, to the bit.
The base learns worked answers and blind guesses side by side; RL finds out that working pays.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import checkpoint
import numpy as np
import paths
import torch
from checkpoint import task
from measure import split_docs
from packing import Block, Packed, Reader, pack
from recipes import P_HABIT, PHASES, RECIPES, Phase, Recipe, shortened
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, set_seed

log = logging.getLogger("demo-pair")

HERE = Path(__file__).resolve().parent
PATCH_GRID = (1, 2 * task.GRID, 2 * task.GRID)  # patches of one image, before merging 2 x 2
IMAGES, QUESTIONS = 32, 4  # images a step in supervised training, and questions on each
P_CORRUPT = 0.1  # share of the worked answers with one wrong piece of evidence
LENS_WEIGHT = 0.3


class Prompts:
    """Token ids of prompts and answers, each piece encoded once."""

    def __init__(self, processor: Qwen2_5_VLProcessor, question_first: bool = False) -> None:
        self.tokenizer = processor.tokenizer
        self.question_first = question_first
        pieces = checkpoint.prompt_texts()
        self.opening, self.image, self.closing, self.end = map(self.encode, pieces)
        self.prefix = self.opening + self.image
        self.pad_id = self.tokenizer.pad_token_id
        empty = self.encode("empty")
        names = [task.content_name(c).replace(" ", "") for c in range(1, 13)]
        self.content_ids = torch.tensor([empty, *map(self.encode, names)])[:, 0]
        self._seen: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, nothing added."""
        return self.tokenizer.encode(text)

    def parts(self, question: str) -> tuple[list[int], list[int], int]:
        """What stands up to the image's end and behind it, and how much of it is its lead."""
        if question not in self._seen:
            self._seen[question] = self.encode(question)
        asked = self._seen[question]
        if self.question_first:
            return self.opening + asked + self.image, self.closing, len(asked)
        return self.prefix, asked + self.closing, 0

    def answer(self, thought: str, answer: str) -> list[int]:
        """A complete response, end token included."""
        text = f"<think>{thought}</think><answer>{answer}</answer>"
        if text not in self._seen:
            self._seen[text] = self.encode(text) + self.end
        return self._seen[text]


def draw_response(
    rng: np.random.Generator, question: paths.Path | task.Question, like: str, p_guess: float
) -> tuple[str, str]:
    """(thought, answer) the base is shown: a blind guess, worked, or worked with one slip.

    A blind guess is `like`, the answer to a like question about another scene.
    """
    if rng.random() < p_guess:
        return checkpoint.GUESS, like
    evidence = list(question.evidence)
    if rng.random() < P_CORRUPT:
        place = int(rng.integers(len(evidence)))
        looked_up = question.kind in ("colour_at", "shape_at", paths.KIND)
        evidence[place] = int(rng.integers(1, 13) if looked_up else rng.integers(task.GRID + 1))
    return paths.conclude(question, tuple(evidence))


def base_batch(
    rng: np.random.Generator,
    prompts: Prompts,
    processor: Qwen2_5_VLProcessor,
    p_guess: dict[str, float],
    count: int = IMAGES,
) -> tuple[Packed, Tensor, Tensor]:
    """Question-answer blocks on `count` images, pixel values, and (images, 16) lens targets.

    The types of question are the keys of `p_guess`.
    """
    scenes = task.sample_scenes(rng, count, task.TRAIN_FOLDS)
    pixels = checkpoint.patchify(task.render(scenes, rng), processor)
    shared, blocks, leads = [], [], []
    for contents, other in zip(scenes.contents, np.roll(scenes.contents, 1, 0), strict=True):
        row = []
        for kind in rng.choice(list(p_guess), size=QUESTIONS, replace=False):
            question = paths.ask(rng, contents, str(kind))
            like = paths.ask(rng, other, str(kind)).answer
            head, tail, lead = prompts.parts(question.text)
            response = prompts.answer(*draw_response(rng, question, like, p_guess[str(kind)]))
            row.append(Block(tail + response, len(tail)))
            shared.append(head)
            leads.append(lead)
        # Behind the image, all questions share it in one row; before it, each needs its own row.
        blocks += [[block] for block in row] if prompts.question_first else [row]
    if not prompts.question_first:
        shared, leads = shared[::QUESTIONS], leads[::QUESTIONS]
    packed = pack(shared, blocks, prompts.pad_id, leads)
    wanted = prompts.content_ids[torch.from_numpy(scenes.contents).flatten(1)]
    return packed, pixels, wanted.repeat_interleave(len(shared) // count, 0)


def dev_docs(kinds: Iterable[str]) -> list[dict]:
    """The development split, and as many paths as it has of each type where they are trained."""
    docs = split_docs("dev")
    return docs + paths.docs(1, 100, fold=1) if paths.KIND in kinds else docs


def dev_lens(reader: Reader, prompts: Prompts, pixels: Tensor) -> str:
    """Shares of the visual positions that gamma .1/.2/.4/.7 selects, mean over all layers."""
    images = len(pixels) // (PATCH_GRID[1] * PATCH_GRID[2])
    batch = pack([prompts.prefix] * images, [[Block([], 0)]] * images, prompts.pad_id)
    with torch.no_grad():
        log_p = reader.lens(reader.hidden(batch, pixels, True), batch.leads).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    peak = entropy.amax(-1, keepdim=True)
    return "/".join(f"{(entropy <= g * peak).float().mean():.2f}" for g in (0.1, 0.2, 0.4, 0.7))


def start_from(args: argparse.Namespace, name: str) -> Qwen2_5_VLForConditionalGeneration:
    """What was exported, else what was trained under this name, in float32."""
    for folder in (args.out / name, args.work / name):
        if (folder / "config.json").is_file():
            return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    raise SystemExit(f"train {name!r} first: it is neither in {args.out} nor in {args.work}")


class Trainee(NamedTuple):
    """A model in training, with all that reads and judges it."""

    model: Qwen2_5_VLForConditionalGeneration
    processor: Qwen2_5_VLProcessor
    prompts: Prompts
    reader: Reader
    docs: list[dict]

    @classmethod
    def of(cls, model: Qwen2_5_VLForConditionalGeneration, plan: Phase | Recipe) -> Trainee:
        """The model, with the prompts and development documents of a phase or recipe."""
        kinds = plan.p_guess if isinstance(plan, Phase) else plan.kinds
        processor = checkpoint.build_processor()
        prompts = Prompts(processor, plan.question_first)
        reader = Reader(model, prompts.prefix, PATCH_GRID)
        return cls(model, processor, prompts, reader, dev_docs(kinds))

    def accuracy(self) -> tuple[float, str]:
        """Greedy accuracy on the development documents and, as text, by type; by our sampler."""
        _, processor, prompts, reader, docs = self
        images = np.stack([np.asarray(doc["image"]) for doc in docs])
        pixels = checkpoint.patchify(images, processor)
        heads, tails, leads = zip(*(prompts.parts(doc["question"]) for doc in docs), strict=True)
        asked = [head + tail for head, tail in zip(heads, tails, strict=True)]
        sampled = reader.sample(asked, pixels, list(leads))
        answers = [prompts.tokenizer.decode(ids[0]) for ids in sampled]
        scores = [task.score(text, doc["answer"]) for text, doc in zip(answers, docs, strict=True)]
        kinds = np.array([doc["question_type"] for doc in docs])
        shares = [np.array(scores)[kinds == kind].mean() for kind in dict.fromkeys(kinds)]
        guessed = np.mean([checkpoint.GUESS in text for text in answers])
        by_type = " ".join(f"{share:.2f}" for share in shares)
        return float(np.mean(scores)), f"({by_type}, guesses {guessed:.2f})"


def train_base(args: argparse.Namespace) -> None:
    """One supervised phase."""
    phase = shortened(PHASES[args.phase], args.steps)
    set_seed(args.seed)
    processor = checkpoint.build_processor()
    checkpoint.check_inputs(processor, phase.question_first)
    if phase.start:
        model = start_from(args, phase.start)
    else:
        model = checkpoint.build_model(processor.tokenizer)
    log.info("%s, seed %d: %s", args.phase, args.seed, json.dumps(asdict(phase)))
    supervise(Trainee.of(model, phase), phase, np.random.default_rng([args.seed, phase.stream]))
    save(model, processor, args.work / args.phase)


def supervise(trainee: Trainee, phase: Phase, rng: np.random.Generator) -> None:
    """Train on answers and, at visual positions, on what each cell holds.

    The auxiliary loss makes the logit lens of every layer name each cell's content at its visual
    token, as captions do in a real model's pre-training. Without it all visual entropies are high
    and the mask of Activation Replay is empty.
    """
    model, processor, prompts, reader, docs = trainee
    seen = checkpoint.patchify(np.stack([np.asarray(d["image"]) for d in docs[:100]]), processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, phase.lr, total_steps=phase.steps, pct_start=0.1
    )
    start = time.monotonic()
    for step in tqdm(range(1, phase.steps + 1), desc="base"):
        batch, pixels, contents = base_batch(rng, prompts, processor, phase.p_guess)
        hidden = reader.hidden(batch, pixels, every_layer=True)
        answer_loss = -reader.target_log_probs(batch, hidden[-1]).mean()
        lens = reader.lens(hidden, batch.leads)
        wanted = contents.expand(len(hidden), -1, -1)
        lens_loss = cross_entropy(lens.flatten(0, 2), wanted.flatten())
        update(model, optimizer, answer_loss + LENS_WEIGHT * lens_loss)
        schedule.step()
        if step % 100 == 0 or step == phase.steps:
            log.info(
                "step %4d  answer %.3f  lens %.3f  gamma .1/.2/.4/.7 selects %s  dev %.3f %s "
                "(%.0f s)",
                step,
                answer_loss.item(),
                lens_loss.item(),
                dev_lens(reader, prompts, seen),
                *trainee.accuracy(),
                time.monotonic() - start,
            )


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One clipped optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def train_policy(args: argparse.Namespace) -> None:
    """GRPO: group-normalised exact-answer rewards, one on-policy update per batch, no KL term."""
    recipe = shortened(RECIPES[args.recipe], args.steps)
    set_seed(args.seed)
    rng = np.random.default_rng([args.seed, 1])
    trainee = Trainee.of(start_from(args, recipe.start), recipe)
    model, processor, prompts, reader, _ = trainee
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), weight_decay=0.0)
    log.info("rl %s, seed %d: %s", args.recipe, args.seed, json.dumps(asdict(recipe)))
    log.info("rl step    0  dev %.3f %s", *trainee.accuracy())
    start = time.monotonic()
    for step in tqdm(range(1, recipe.steps + 1), desc="rl"):
        scenes = task.sample_scenes(rng, recipe.prompts, task.TRAIN_FOLDS)
        images = task.render(scenes, rng)
        questions = [
            paths.ask(rng, contents, str(rng.choice(recipe.kinds))) for contents in scenes.contents
        ]
        parts = [prompts.parts(question.text) for question in questions]
        asked = [head + tail for head, tail, _ in parts]
        leads = [lead for _, _, lead in parts]
        pixels = checkpoint.patchify(images, processor)
        answers = reader.sample(asked, pixels, leads, k=recipe.samples, temperature=1.0)
        texts = [[prompts.tokenizer.decode(ids) for ids in group] for group in answers]
        rewards = torch.tensor(
            [
                [task.score(text, question.answer) for text in group]
                for group, question in zip(texts, questions, strict=True)
            ]
        )
        centred = rewards - rewards.mean(1, keepdim=True)
        advantages = centred / (rewards.std(1, keepdim=True) + 1e-4)
        # A group whose answers are all right or all wrong has no advantage and no gradient.
        mixed = rewards.std(1).nonzero()[:, 0].tolist()
        if not mixed:
            continue
        blocks = [
            [Block(ids, 0, float(a)) for ids, a in zip(answers[i], advantages[i], strict=True)]
            for i in mixed
        ]
        rows = [asked[i] for i in mixed]
        batch = pack(rows, blocks, prompts.pad_id, [leads[i] for i in mixed])
        hidden = reader.hidden(batch, checkpoint.patchify(images[mixed], processor))
        log_probs = reader.target_log_probs(batch, hidden[-1])
        update(model, optimizer, -(batch.weights * log_probs).mean())
        if step % 20 == 0 or step == recipe.steps:
            log.info(
                "rl step %4d  reward %.3f  mixed groups %d/%d  dev %.3f %s (%.0f s)",
                step,
                rewards.mean().item(),
                len(mixed),
                len(asked),
                *trainee.accuracy(),
                time.monotonic() - start,
            )
    save(model, processor, args.work / f"{args.recipe}-seed{args.seed}")


def train_twin(args: argparse.Namespace) -> None:
    """What RL is compared with: as many updates and answers, on the base's own data.

    The same start, learning rates and parts of the model as the recipe; no reward and no lens loss.
    """
    recipe = shortened(RECIPES[args.recipe], args.steps)
    set_seed(args.seed)
    rng = np.random.default_rng([args.seed, 5])
    trainee = Trainee.of(start_from(args, recipe.start), recipe)
    model, processor, prompts, reader, _ = trainee
    count = recipe.prompts * recipe.samples // QUESTIONS
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), weight_decay=0.0)
    log.info("sft %s, seed %d: %s", args.recipe, args.seed, json.dumps(asdict(recipe)))
    log.info("sft step    0  dev %.3f %s", *trainee.accuracy())
    for step in tqdm(range(1, recipe.steps + 1), desc="sft"):
        batch, pixels, _ = base_batch(rng, prompts, processor, P_HABIT, count)
        hidden = reader.hidden(batch, pixels)
        loss = -reader.target_log_probs(batch, hidden[-1]).mean()
        update(model, optimizer, loss)
        if step % 20 == 0 or step == recipe.steps:
            found = trainee.accuracy()
            log.info("sft step %4d  answer %.3f  dev %.3f %s", step, loss.item(), *found)
    save(model, processor, args.work / f"{args.recipe}-sft-seed{args.seed}")


def parameter_groups(
    model: Qwen2_5_VLForConditionalGeneration, recipe: Recipe
) -> list[dict[str, object]]:
    """The parameters of vision tower and text with their learning rates; a rate of 0 freezes."""
    vision = set(model.model.visual.parameters())
    text = [parameter for parameter in model.parameters() if parameter not in vision]
    groups = []
    for parameters, rate in ((list(vision), recipe.vision_lr), (text, recipe.text_lr)):
        for parameter in parameters:
            parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.append({"params": parameters, "lr": rate})
    return groups


def save(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path
) -> None:
    """Write a complete checkpoint."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def export(args: argparse.Namespace) -> None:
    """Round one trained model to bf16 and write it next to this file."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        args.work / args.run, dtype=torch.bfloat16
    )
    save(model, checkpoint.build_processor(), args.out / args.name)
    size = sum(file.stat().st_size for file in (args.out / args.name).iterdir())
    log.info("export: %s from %s, %.2f MB", args.name, args.run, size / 1e6)


STAGES = {"base": train_base, "rl": train_policy, "sft": train_twin, "export": export}


def main() -> None:
    """Command line: one stage."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phase", choices=PHASES, default="base-plain", help="of stage base")
    parser.add_argument("--recipe", choices=RECIPES, default="demo", help="of stages rl and sft")
    parser.add_argument("--steps", type=int, help="fewer or more than the phase or recipe has")
    parser.add_argument("--run", help="of stage export: a folder below --work")
    parser.add_argument("--name", help="of stage export: a folder below --out")
    parser.add_argument("--work", type=Path, default=Path("outputs/demo-pair"), help="fp32 weights")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the exported pairs")
    parser.add_argument("--logs", type=Path, default=HERE / "logs", help="one file per run")
    args = parser.parse_args()
    if args.stage == "export" and not (args.run and args.name):
        parser.error("stage export needs --run and --name")

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # numbers below 1e-38 cost a CPU a hundred times as much
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    args.logs.mkdir(parents=True, exist_ok=True)
    stems = {
        "base": args.phase,
        "rl": f"{args.recipe}-seed{args.seed}",
        "sft": f"{args.recipe}-sft-seed{args.seed}",
        "export": f"export-{args.name}",
    }
    log.addHandler(logging.FileHandler(args.logs / f"{stems[args.stage]}.log", mode="w"))
    start = time.monotonic()
    STAGES[args.stage](args)
    log.info("%s: %.0f s", args.stage, time.monotonic() - start)


if __name__ == "__main__":
    main()
