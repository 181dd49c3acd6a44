"""Train the demo pair on one CPU thread: a base, then a policy by RL with verifiable rewards.

Run the stages in order (about 50 minutes in all on one thread):

    python configs/pairs/demo/train.py base      # supervised: answers in two styles, lens loss
    python configs/pairs/demo/train.py habits    # supervised: one of the styles becomes blind
    python configs/pairs/demo/train.py rl        # GRPO on the base, reward = exact answer
    python configs/pairs/demo/train.py rl --rl-start policy --rl-steps 100  # second round
    python configs/pairs/demo/train.py export    # bf16 checkpoints next to this file
    python configs/pairs/demo/train.py evaluate  # the exported pair on the held-out test split

`all` leaves out the second round of RL, which the shipped pair has (train.log).
The base learns worked answers and guesses side by side; RL finds out that working pays.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import checkpoint
import numpy as np
import torch
from checkpoint import task
from evaluate import evaluate_pair
from packing import Block, Packed, Reader, pack
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, set_seed

log = logging.getLogger("demo-pair")

HERE = Path(__file__).resolve().parent
PATCH_GRID = (1, 2 * task.GRID, 2 * task.GRID)  # patches of one image, before merging 2 x 2
IMAGES, QUESTIONS = 32, 4  # images a step in supervised training, and questions on each
P_GUESS = 0.6  # share of the base's answers that are given without work
# In its last phase the base learns to guess blindly, habitually on two types of question: what RL
# has to find out is that working pays.
P_BLIND = {
    "count_colour": 0.7,
    "count_shape": 0.25,
    "colour_at": 0.25,
    "shape_at": 0.25,
    "more_than": 0.7,
}
P_CORRUPT = 0.1  # share of the worked answers with one wrong piece of evidence
LENS_WEIGHT = 0.3


class Prompts:
    """Token ids of prompts and answers, each piece encoded once."""

    def __init__(self, processor: Qwen2_5_VLProcessor) -> None:
        self.tokenizer = processor.tokenizer
        before, after, end = checkpoint.prompt_texts()
        self.prefix, self.after, self.end = map(self.encode, (before, after, end))
        self.pad_id = self.tokenizer.pad_token_id
        empty = self.encode("empty")
        names = [task.content_name(c).replace(" ", "") for c in range(1, 13)]
        self.content_ids = torch.tensor([empty, *map(self.encode, names)])[:, 0]
        self._seen: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, nothing added."""
        return self.tokenizer.encode(text)

    def after_image(self, question: str) -> list[int]:
        """What follows the image up to where the answer starts."""
        if question not in self._seen:
            self._seen[question] = self.encode(question) + self.after
        return self._seen[question]

    def answer(self, thought: str, answer: str) -> list[int]:
        """A complete response, end token included."""
        text = f"<think>{thought}</think><answer>{answer}</answer>"
        if text not in self._seen:
            self._seen[text] = self.encode(text) + self.end
        return self._seen[text]


def draw_response(
    rng: np.random.Generator, question: task.Question, like: str, blind: bool
) -> tuple[str, str]:
    """(thought, answer) the base is shown: a guess, worked, or worked with one slip.

    A blind guess repeats `like`, the answer to a like question about another scene.
    """
    if rng.random() < (P_BLIND[question.kind] if blind else P_GUESS):
        return checkpoint.GUESS, like if blind else question.answer
    evidence = list(question.evidence)
    if rng.random() < P_CORRUPT:
        place = int(rng.integers(len(evidence)))
        looked_up = question.kind in ("colour_at", "shape_at")
        evidence[place] = int(rng.integers(1, 13) if looked_up else rng.integers(task.GRID + 1))
    return task.conclude(question.kind, tuple(evidence))


def base_batch(
    rng: np.random.Generator, prompts: Prompts, processor: Qwen2_5_VLProcessor, blind: bool
) -> tuple[Packed, Tensor, Tensor]:
    """Packed question-answer blocks, pixel values, and (images, 16) lens targets."""
    scenes = task.sample_scenes(rng, IMAGES, task.TRAIN_FOLDS)
    pixels = checkpoint.patchify(task.render(scenes, rng), processor)
    blocks = []
    for contents, other in zip(scenes.contents, np.roll(scenes.contents, 1, 0), strict=True):
        row = []
        for kind in rng.choice(task.QUESTION_TYPES, size=QUESTIONS, replace=False):
            question = task.ask(rng, contents, str(kind))
            like = task.ask(rng, other, str(kind)).answer if blind else ""
            head = prompts.after_image(question.text)
            response = prompts.answer(*draw_response(rng, question, like, blind))
            row.append(Block(head + response, len(head)))
        blocks.append(row)
    packed = pack([prompts.prefix] * IMAGES, blocks, prompts.pad_id)
    return packed, pixels, prompts.content_ids[torch.from_numpy(scenes.contents).flatten(1)]


def split_docs(split: str) -> list[dict]:
    """The documents of a held-out split, as the harness sees them."""
    spec = json.loads((checkpoint.TASK_FILE.parent / "splits" / f"{split}.json").read_text())
    return task.split_docs(**spec)


def dev_accuracy(
    reader: Reader, prompts: Prompts, processor: Qwen2_5_VLProcessor, docs: list[dict]
) -> float:
    """Greedy accuracy on dev documents, with this module's own fast sampler."""
    pixels = checkpoint.patchify(np.stack([np.asarray(doc["image"]) for doc in docs]), processor)
    asked = [prompts.prefix + prompts.after_image(doc["question"]) for doc in docs]
    answers = [prompts.tokenizer.decode(a[0]) for a in reader.sample(asked, pixels)]
    scores = [task.score(text, doc["answer"]) for text, doc in zip(answers, docs, strict=True)]
    return float(np.mean(scores))


def train_base(args: argparse.Namespace) -> None:
    """Supervised training from scratch."""
    set_seed(args.seed)
    processor = checkpoint.build_processor()
    checkpoint.check_inputs(processor)
    model = checkpoint.build_model(processor.tokenizer)
    log.info("base: %d parameters", sum(p.numel() for p in model.parameters()))
    rng = np.random.default_rng([args.seed, 0])
    supervise("base", model, rng, args.base_steps, args.base_lr)
    save(model, processor, args.work / "base")


def train_habits(args: argparse.Namespace) -> None:
    """The base's last phase: the same training, with blind guesses in place of informed ones."""
    set_seed(args.seed)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.work / "base")
    rng = np.random.default_rng([args.seed, 1])
    supervise("habits", model, rng, args.habits_steps, args.habits_lr, blind=True)
    save(model, checkpoint.build_processor(), args.work / "habits")


def supervise(
    stage: str,
    model: Qwen2_5_VLForConditionalGeneration,
    rng: np.random.Generator,
    steps: int,
    lr: float,
    blind: bool = False,
) -> None:
    """Train on answers and, at visual positions, on what each cell holds.

    The auxiliary loss makes the logit lens of every layer name each cell's content at its visual
    token, as captions do in a real model's pre-training. Without it all visual entropies are high
    and the mask of Activation Replay is empty.
    """
    processor = checkpoint.build_processor()
    prompts = Prompts(processor)
    reader = Reader(model, prompts.prefix, PATCH_GRID)
    docs = split_docs("dev")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    log.info("%s: %d steps, lr %g", stage, steps, lr)
    start = time.monotonic()
    for step in tqdm(range(1, steps + 1), desc=stage):
        batch, pixels, contents = base_batch(rng, prompts, processor, blind)
        hidden = reader.hidden(batch, pixels, every_layer=True)
        answer_loss = -reader.target_log_probs(batch, hidden[-1]).mean()
        lens = reader.lens(hidden)
        wanted = contents.expand(len(hidden), -1, -1)
        lens_loss = cross_entropy(lens.flatten(0, 2), wanted.flatten())
        update(model, optimizer, answer_loss + LENS_WEIGHT * lens_loss)
        schedule.step()
        if step % 100 == 0 or step == steps:
            log.info(
                "%s step %4d  answer %.3f  lens %.3f  dev %.3f  (%.0f s)",
                stage,
                step,
                answer_loss.item(),
                lens_loss.item(),
                dev_accuracy(reader, prompts, processor, docs),
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
    set_seed(args.seed)
    rng = np.random.default_rng([args.seed, 2 if args.rl_start == "habits" else 3])
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.work / args.rl_start)
    processor = checkpoint.build_processor()
    prompts = Prompts(processor)
    reader = Reader(model, prompts.prefix, PATCH_GRID)
    docs = split_docs("dev")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rl_lr, weight_decay=0.0)
    log.info("rl from %s: %d steps, lr %g", args.rl_start, args.rl_steps, args.rl_lr)
    log.info("rl step    0  dev %.3f", dev_accuracy(reader, prompts, processor, docs))
    start = time.monotonic()
    for step in tqdm(range(1, args.rl_steps + 1), desc="rl"):
        scenes = task.sample_scenes(rng, args.rl_prompts, task.TRAIN_FOLDS)
        images = task.render(scenes, rng)
        questions = [
            task.ask(rng, contents, str(rng.choice(task.QUESTION_TYPES)))
            for contents in scenes.contents
        ]
        asked = [prompts.prefix + prompts.after_image(question.text) for question in questions]
        pixels = checkpoint.patchify(images, processor)
        answers = reader.sample(asked, pixels, k=args.rl_samples, temperature=1.0)
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
        batch = pack([asked[i] for i in mixed], blocks, prompts.pad_id)
        hidden = reader.hidden(batch, checkpoint.patchify(images[mixed], processor))
        log_probs = reader.target_log_probs(batch, hidden[-1])
        update(model, optimizer, -(batch.weights * log_probs).mean())
        if step % 20 == 0 or step == args.rl_steps:
            log.info(
                "rl step %4d  reward %.3f  mixed groups %d/%d  dev %.3f  (%.0f s)",
                step,
                rewards.mean().item(),
                len(mixed),
                len(asked),
                dev_accuracy(reader, prompts, processor, docs),
                time.monotonic() - start,
            )
    save(model, processor, args.work / "policy")


def save(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path
) -> None:
    """Write a complete checkpoint."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def export(args: argparse.Namespace) -> None:
    """Round both models to bf16 and write them next to this file."""
    for name, source in (("base", "habits"), ("policy", "policy")):
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            args.work / source, dtype=torch.bfloat16
        )
        save(model, checkpoint.build_processor(), args.out / name)
        size = sum(file.stat().st_size for file in (args.out / name).iterdir())
        log.info("export: %s, %.2f MB", name, size / 1e6)


def evaluate(args: argparse.Namespace) -> None:
    """Measure the exported pair on the test split, which no choice was made on."""
    evaluate_pair(args.out, split_docs("test"), split_docs("dev"), args.seed)


STAGES = {
    "base": train_base,
    "habits": train_habits,
    "rl": train_policy,
    "export": export,
    "evaluate": evaluate,
}


def main() -> None:
    """Command line: one stage, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("outputs/demo-pair"), help="fp32 weights")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the exported pair")
    parser.add_argument("--log", type=Path, default=HERE / "train.log", help="appended to")
    parser.add_argument("--base-steps", type=int, default=1300)
    parser.add_argument("--base-lr", type=float, default=2e-3)
    parser.add_argument("--habits-steps", type=int, default=150)
    parser.add_argument("--habits-lr", type=float, default=5e-4)
    parser.add_argument("--rl-steps", type=int, default=80)
    parser.add_argument(
        "--rl-start", choices=["habits", "policy"], default="habits", help="policy: train it on"
    )
    parser.add_argument("--rl-lr", type=float, default=1e-4)
    parser.add_argument("--rl-prompts", type=int, default=48)
    parser.add_argument("--rl-samples", type=int, default=8)
    args = parser.parse_args()

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    log.addHandler(logging.FileHandler(args.log))
    for name in STAGES if args.stage == "all" else [args.stage]:
        start = time.monotonic()
        STAGES[name](args)
        log.info("%s: %.0f s", name, time.monotonic() - start)


if __name__ == "__main__":
    main()
