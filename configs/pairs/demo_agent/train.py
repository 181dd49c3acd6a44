"""Train the agent's pair: a base that speaks DeepEyes' protocol, and a policy by RL from it.

    python configs/pairs/demo_agent/train.py base               # supervised, from ../demo/base
    python configs/pairs/demo_agent/train.py rl --steps 30      # GRPO on conversations, LoRA

The base learns two ways side by side: to zoom into the object that is asked for and read its
pattern, and to guess at once. RL finds out that zooming pays. Logs stand in logs/.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AddedToken,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    set_seed,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))
import checkpoint  # noqa: E402

log = logging.getLogger("agent-pair")
TASK_FILE = HERE.parents[2] / "tasks" / "replay_zoom" / "replay_zoom.py"
CALL = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
PROTOCOL_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    CALL,
    "]}}",
)
WORDS = ("horizontal", "vertical", "checked", "pattern", "28", "56", "84", "112")
SPACED = (" pattern", " on", " the", " circle", " square", " triangle", " 28", " 56", " 84", " 112")
P_GUESS, P_MISSED = 0.5, 0.1
TOKENS = 16  # visual tokens of a picture, whole or cropped
LENS_WEIGHT = 0.3
BATCH = 32


def load_task():
    """The task module, loaded by path as lmms-eval does."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("replay_zoom", TASK_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


task = load_task()


def build_processor() -> Qwen2_5_VLProcessor:
    """The first pair's processor, with the tokens of the protocol and of the question."""
    processor = checkpoint.build_processor()
    plain = [*PROTOCOL_TOKENS, *WORDS, *(word for word in SPACED)]
    known = [text for text in plain if len(processor.tokenizer.encode(text)) > 1]
    processor.tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in known])
    return processor


def build_model(tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """The first pair's base, whose vocabulary has grown."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        HERE.parent / "demo" / "base", dtype=torch.float32
    )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    return model


class Speaker:
    """Conversations as token ids and model inputs."""

    def __init__(self, processor: Qwen2_5_VLProcessor) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.picture = f"<|vision_start|>{'<|image_pad|>' * TOKENS}<|vision_end|>"
        self.opening = f"<|im_start|>system\n{checkpoint.SYSTEM_PROMPT}<|im_end|>\n"

    def asked(self, question: str) -> str:
        """The first prompt."""
        return (
            f"{self.opening}<|im_start|>user\n{self.picture}{question}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def responded(self) -> str:
        """What stands between the call and the next answer."""
        return (
            f"<|im_end|>\n<|im_start|>user\n<tool_response>{self.picture}</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def call(self, row: int, column: int) -> str:
        """The first turn of who zooms."""
        box = ", ".join(map(str, task.shown_box(row, column)))
        thought = f"<think>row {row + 1} column {column + 1}</think>"
        return f"{thought}<tool_call>{CALL}{box}]}}}}</tool_call>"

    def answer(self, thought: str, pattern: str) -> str:
        """The last turn."""
        return f"<think>{thought}</think><answer>{pattern}</answer>"

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, nothing added."""
        return self.tokenizer.encode(text)

    def pixels(self, pictures: list[Image.Image]) -> Tensor:
        """Pixel values of pictures that are 112 x 112 already."""
        return checkpoint.patchify(np.stack([np.asarray(p) for p in pictures]), self.processor)

    def inputs(
        self, rows: list[list[int]], pictures: list[Image.Image], side: str = "right"
    ) -> dict:
        """A padded batch; pictures in the order of the rows."""
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        filler = [[pad] * (width - len(row)) for row in rows]
        order = (lambda row, fill: fill + row) if side == "left" else (lambda row, fill: row + fill)
        ids = torch.tensor([order(row, fill) for row, fill in zip(rows, filler, strict=True)])
        mask = torch.tensor(
            [order([1] * len(row), [0] * len(fill)) for row, fill in zip(rows, filler, strict=True)]
        )
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self.image_id).int(),
            "pixel_values": self.pixels(pictures),
            "image_grid_thw": torch.tensor([[1, 8, 8]]).repeat(len(pictures), 1),
        }


def shown(image: Image.Image) -> Image.Image:
    """The whole picture as the model is shown it."""
    return image.resize((112, 112), Image.Resampling.BICUBIC)


def zoomed(image: Image.Image, box: tuple[float, ...]) -> Image.Image | None:
    """The crop of a box in shown coordinates; None for a box without area inside."""
    left, top, right, bottom = box
    if right <= left or bottom <= top or right <= 0 or bottom <= 0 or left >= 112 or top >= 112:
        return None
    scaled = [task.SCALE * value for value in box]
    crop = (
        max(0, int(scaled[0])),
        max(0, int(scaled[1])),
        min(448, int(scaled[2])),
        min(448, int(scaled[3])),
    )
    return image.crop(crop).resize((112, 112), Image.Resampling.BICUBIC)


_BOX = re.compile(
    r"<tool_call>\{\"name\": \"image_zoom_in_tool\", \"arguments\": \{\"bbox_2d\": "
    r"\[(\d+), (\d+), (\d+), (\d+)\]\}\}</tool_call>"
)


def box_of(text: str) -> tuple[float, ...] | None:
    """The box of a well-formed call."""
    found = _BOX.search(text)
    return tuple(map(float, found.groups())) if found else None


@dataclass
class Drawn:
    """A scene's picture and a question about it."""

    image: Image.Image
    content: int
    row: int
    column: int
    pattern: str
    scene: object

    @property
    def question(self) -> str:
        """What is asked."""
        return task.question_of(self.content)


def draw(rng: np.random.Generator, count: int, folds=task.demo.TRAIN_FOLDS) -> list[Drawn]:
    """`count` scenes with their pictures, whose grids lie in `folds`."""
    drawn = []
    for scene in task.sample_scenes(rng, count, folds):
        content = int(rng.choice(scene.contents[scene.contents > 0]))
        row, column = scene.cell(content)
        pattern = task.PATTERNS[scene.patterns[row, column]]
        drawn.append(Drawn(task.render(scene, rng), content, row, column, pattern, scene))
    return drawn


def lens_targets(speaker: Speaker, drawn: Drawn, row: int, column: int) -> list[int]:
    """Token per visual token: what each cell holds, then the pattern (or nothing) of the crop's."""
    names = [
        task.demo.content_name(int(c)).replace(" ", "") or "empty"
        for c in drawn.scene.contents.flat
    ]
    first = [speaker.encode(name)[0] for name in names]
    content = int(drawn.scene.contents[row, column])
    mask = task._MASKS[0 if content == 0 else 1 + (content - 1) % 3]
    cover = mask.reshape(4, 28, 4, 28).mean((1, 3)).flatten()
    pattern = task.PATTERNS[drawn.scene.patterns[row, column]]
    inside, empty = speaker.encode(pattern)[0], speaker.encode("empty")[0]
    return first + [inside if share > 0.3 else empty for share in cover]


def base_batch(rng: np.random.Generator, speaker: Speaker, p_guess: float):
    """Inputs, labels (-100 where nothing is learnt), and lens targets in the pictures' order."""
    rows, labels, pictures, wanted = [], [], [], []
    for drawn in draw(rng, BATCH):
        ids = speaker.encode(speaker.asked(drawn.question))
        label = [-100] * len(ids)
        pictures.append(shown(drawn.image))
        end = speaker.encode("<|im_end|>")
        if rng.random() < p_guess:
            said = (
                speaker.encode(speaker.answer(checkpoint.GUESS, str(rng.choice(task.PATTERNS))))
                + end
            )
            ids, label = ids + said, label + said
            wanted += lens_targets(speaker, drawn, drawn.row, drawn.column)[:TOKENS]
        else:
            row, column = drawn.row, drawn.column
            if rng.random() < P_MISSED:
                row, column = (int(v) for v in rng.integers(4, size=2))
            crop = zoomed(drawn.image, task.shown_box(row, column))
            content = int(drawn.scene.contents[row, column])
            seen = task.PATTERNS[drawn.scene.patterns[row, column]]
            seen = seen if content else str(rng.choice(task.PATTERNS))
            pictures.append(crop)
            call = speaker.encode(speaker.call(row, column))
            between = speaker.encode(speaker.responded())
            said = speaker.encode(speaker.answer(seen, seen)) + end
            ids = ids + call + between + said
            label = label + call + between[:1] + [-100] * (len(between) - 1) + said
            wanted += lens_targets(speaker, drawn, row, column)
        rows.append(ids)
        labels.append(label)
    width = max(map(len, rows))
    padded = torch.tensor([label + [-100] * (width - len(label)) for label in labels])
    return speaker.inputs(rows, pictures), padded, torch.tensor(wanted)


def train_base(args) -> None:
    """Teach the base to zoom, and to guess."""
    set_seed(args.seed)
    processor = build_processor()
    speaker, model = Speaker(processor), build_model(processor.tokenizer)
    if args.resume:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.resume, dtype=torch.float32)
    rng = np.random.default_rng([args.seed, 11])
    steps = args.steps or 500
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr or 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr or 2e-3, total_steps=steps, pct_start=0.1
    )
    started = time.monotonic()
    for step in range(1, steps + 1):
        # At first all zoom, so that the way is learnt; then half of them guess.
        inputs, labels, wanted = base_batch(rng, speaker, 0.1 if step < 0.6 * steps else P_GUESS)
        out = model(**inputs, output_hidden_states=True)
        answer_loss = cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        visual = inputs["input_ids"] == speaker.image_id
        norm, head = model.get_decoder().norm, model.get_output_embeddings()
        states = [norm(h[visual]) for h in out.hidden_states[1:-1]] + [
            out.hidden_states[-1][visual]
        ]
        lens = torch.stack([cross_entropy(head(h), wanted) for h in states]).mean()
        update(model, optimizer, answer_loss + LENS_WEIGHT * lens)
        schedule.step()
        if step % 25 == 0 or step == steps:
            log.info(
                "step %d answer %.3f lens %.3f (%.0f s)",
                step,
                answer_loss.item(),
                lens.item(),
                time.monotonic() - started,
            )
        if step % 100 == 0 or step == steps:
            log.info("  dev %s", evaluate(model, speaker, draw(np.random.default_rng(5), 60, (1,))))
            save(model, processor, args.work / "base")


def update(model, optimizer, loss: Tensor) -> None:
    """One clipped optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()


@torch.no_grad()
def converse(model, speaker: Speaker, drawn: list[Drawn], k: int = 1, temperature: float = 0.0):
    """A conversation for each drawn scene and sample: its ids, pictures and texts."""
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0}
        if temperature
        else {"do_sample": False}
    )
    how |= {"pad_token_id": speaker.tokenizer.pad_token_id}
    asked = [speaker.encode(speaker.asked(d.question)) for d in drawn for _ in range(k)]
    images = [d.image for d in drawn for _ in range(k)]
    whole = [p for d in drawn for p in [shown(d.image)] * k]
    stop = speaker.tokenizer.convert_tokens_to_ids("</tool_call>")
    ends = [speaker.tokenizer.eos_token_id, stop]
    first = _generated(model, speaker, asked, whole, 28, ends, how)
    turns = [(ids, said) for ids, said in zip(asked, first, strict=True)]
    talks, again = [], []
    for index, (ids, said) in enumerate(turns):
        text = speaker.tokenizer.decode(said)
        box = box_of(text)
        crop = zoomed(images[index], box) if box else None
        talks.append(
            {
                "asked": ids,
                "first": said,
                "text": text,
                "crop": crop,
                "whole": whole[index],
                "last": None,
                "box": box,
            }
        )
        if crop is not None:
            again.append(index)
    if again:
        between = speaker.encode(speaker.responded())
        rows = [talks[i]["asked"] + talks[i]["first"] + between for i in again]
        pictures = [p for i in again for p in (talks[i]["whole"], talks[i]["crop"])]
        last = _generated(model, speaker, rows, pictures, 12, ends[:1], how)
        for index, said in zip(again, last, strict=True):
            talks[index]["last"] = said
            talks[index]["between"] = between
            talks[index]["text"] += "|" + speaker.tokenizer.decode(said)
    return talks


def _generated(model, speaker, rows, pictures, tokens, ends, how) -> list[list[int]]:
    inputs = speaker.inputs(rows, pictures, side="left")
    out = model.generate(**inputs, max_new_tokens=tokens, eos_token_id=ends, **how)
    cut = []
    for row in out[:, inputs["input_ids"].shape[1] :].tolist():
        at = next((i for i, t in enumerate(row) if t in ends), len(row) - 1)
        cut.append(row[: at + 1])
    return cut


def right(talk, drawn: Drawn) -> float:
    """1.0 where a conversation's last answer is right, else 0.0."""
    found = re.findall(r"<answer>(.*?)</answer>", talk["text"])
    return float(bool(found) and found[-1] == drawn.pattern)


def evaluate(model, speaker, drawn) -> str:
    """Greedy accuracy and calls, as text."""
    model.eval()
    talks = converse(model, speaker, drawn)
    scores = [right(t, d) for t, d in zip(talks, drawn, strict=True)]
    zooms = [t["crop"] is not None for t in talks]
    exact = [
        t["box"] == tuple(map(float, task.shown_box(d.row, d.column)))
        for t, d in zip(talks, drawn, strict=True)
    ]
    model.train()
    hit = (
        np.mean([s for s, z in zip(scores, zooms, strict=True) if z])
        if any(zooms)
        else float("nan")
    )
    shares = f"zooms {np.mean(zooms):.2f} right cell {np.mean(exact):.2f}"
    example = f"accuracy with zoom {hit:.2f} e.g. {talks[0]['text']!r}"
    return f"accuracy {np.mean(scores):.3f} {shares} {example}"


def save(model, processor, folder: Path) -> None:
    """Write a checkpoint."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train_policy(args) -> None:
    """GRPO: rewards normalised in their group, one on-policy update per batch, no KL term."""
    from peft import LoraConfig, get_peft_model

    set_seed(args.seed)
    processor = build_processor()
    speaker = Speaker(processor)
    source = HERE / "base" if (HERE / "base" / "config.json").is_file() else args.work / "base"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    rng = np.random.default_rng([args.seed, 1])
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr or 1e-3, weight_decay=0.0)
    steps, prompts, k = args.steps or 60, 24, 8
    started = time.monotonic()
    log.info("rl start dev %s", evaluate(model, speaker, draw(np.random.default_rng(5), 100, (1,))))
    for step in range(1, steps + 1):
        drawn = draw(rng, prompts)
        adapted.eval()
        talks = converse(model, speaker, drawn, k, 1.0)
        adapted.train()
        rewards = torch.tensor([right(t, drawn[i // k]) for i, t in enumerate(talks)]).view(
            prompts, k
        )
        advantage = (
            (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        ).flatten()
        used = [i for i in range(len(talks)) if rewards.std(1)[i // k] > 0]
        if not used:
            continue
        rows, labels, pictures = [], [], []
        for i in used:
            talk = talks[i]
            ids = talk["asked"] + talk["first"]
            label = [-100] * len(talk["asked"]) + talk["first"]
            pictures.append(talk["whole"])
            if talk["last"] is not None:
                ids += talk["between"] + talk["last"]
                label += [-100] * len(talk["between"]) + talk["last"]
                pictures.append(talk["crop"])
            rows.append(ids)
            labels.append(label)
        inputs = speaker.inputs(rows, pictures)
        width = inputs["input_ids"].shape[1]
        wanted = torch.tensor([label + [-100] * (width - len(label)) for label in labels])
        logits = model(**inputs).logits[:, :-1]
        nll = cross_entropy(
            logits.flatten(0, 1), wanted[:, 1:].flatten(), reduction="none", ignore_index=-100
        )
        weight = advantage[used][:, None].expand(-1, width - 1).flatten()
        counted = wanted[:, 1:].flatten() >= 0
        update(model, optimizer, (weight * nll)[counted].mean())
        if step % 10 == 0 or step == steps:
            log.info(
                "rl step %d reward %.3f zooms %.2f mixed %d dev %s (%.0f s)",
                step,
                rewards.mean(),
                np.mean([t["crop"] is not None for t in talks]),
                len(used) // k,
                evaluate(model, speaker, draw(np.random.default_rng(5), 100, (1,))),
                time.monotonic() - started,
            )
            adapted.save_pretrained(args.work / f"policy-seed{args.seed}")
            processor.save_pretrained(args.work / f"policy-seed{args.seed}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", "rl"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--work", type=Path, default=Path("results/demo-agent-training"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[
            logging.StreamHandler(),
            logging.FileHandler(args.work / f"{args.what}-seed{args.seed}.log"),
        ],
    )
    {"base": train_base, "rl": train_policy}[args.what](args)


if __name__ == "__main__":
    main()
