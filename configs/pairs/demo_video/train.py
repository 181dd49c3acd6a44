"""Train the video pair: a base that compares frames or guesses, and a policy by RL from it.

    python configs/pairs/demo_video/train.py base    # supervised, from random weights
    python configs/pairs/demo_video/train.py rl      # GRPO, a LoRA adapter

The clips are written as mp4 and decoded again, as those of the task. Logs stand in logs/.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from decord import VideoReader
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    set_seed,
)
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))
import checkpoint  # noqa: E402

log = logging.getLogger("video-pair")
TASK_FILE = HERE.parents[2] / "tasks" / "replay_clips" / "replay_clips.py"
PAIR_FILE = HERE.parent / "demo_video.yaml"
TO = " to "
P_GUESS = 0.5
LENS_WEIGHT = 0.3
BATCH = 64
POOL = 4000  # training clips


def load_task():
    """The task module, loaded by path as lmms-eval does."""
    spec = importlib.util.spec_from_file_location("replay_clips", TASK_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


task = load_task()
TIMES = task.FRAMES // 2  # two frames at a time
GRID = [TIMES, 4, 4]  # patches
TOKENS = TIMES * 4
SECONDS = 2 / task.RATE  # that two frames take


def asked_texts() -> tuple[str, str]:
    """The question with its options, and what the pair's protocol has behind it."""
    protocol = yaml.safe_load(PAIR_FILE.read_text())["protocol"]
    before, _, after = protocol["question_template"].partition("{Question}")
    assert not before, "the template begins with the question"
    question = task.doc_to_text({"question": task.QUESTION, "options": task.WAYS})
    return question, after + protocol["type_suffixes"][protocol["question_type"]]


def build_processor() -> Qwen2_5_VLProcessor:
    """The first pair's processor, for frames of 56 x 56 pixels.

    What the prompt says between its tags is one token for each piece: a model this small has no use
    for the words.
    """
    processor = checkpoint.build_processor()
    processor.video_processor.size = {
        "shortest_edge": task.SIZE**2,
        "longest_edge": task.SIZE**2 * 16,
    }
    question, behind = asked_texts()
    pieces = [question, *re.split(r"</?(?:think|answer)>", behind)]
    plain = [*(piece for piece in pieces if piece.strip()), *task.NAMES, TO]
    processor.tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    return processor


def build_model(tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of 1.0 M random parameters: the first pair's, but narrower."""
    ids = checkpoint.build_model(tokenizer).config.to_dict()
    text = ids["text_config"] | {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    }
    vision = ids["vision_config"] | {"out_hidden_size": 96}
    marks = {name: ids[name] for name in ids if name.endswith("_token_id")}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = checkpoint.build_model(tokenizer).generation_config
    return model


def attend_all_frames_at_once(self, hidden_states, cu_seqlens, position_embeddings=None, **_):
    """The vision tower's attention for frames of one size, which the original takes one by one."""
    split = self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1)
    query, key, value = split.permute(1, 0, 2, 3).unbind(0)
    query, key = modeling.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    frames = [x.unflatten(0, (-1, 16)).transpose(1, 2) for x in (query, key, value)]
    found = scaled_dot_product_attention(*frames).transpose(1, 2)
    return self.proj(found.reshape(len(hidden_states), -1))


class Speaker:
    """Questions and answers as token ids and model inputs."""

    def __init__(self, processor: Qwen2_5_VLProcessor) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.video_id = self.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        clip = f"<|vision_start|>{'<|video_pad|>' * TOKENS}<|vision_end|>"
        self.asked = self.encode(
            f"<|im_start|>system\n{checkpoint.SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{clip}"
            f"{''.join(asked_texts())}<|im_end|>\n<|im_start|>assistant\n"
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, nothing added."""
        return self.tokenizer.encode(text)

    def answer(self, thought: str, letter: str) -> list[int]:
        """What the model says."""
        return self.encode(f"<think>{thought}</think><answer>{letter}</answer><|im_end|>")

    def worked(self, clip) -> list[int]:
        """The right answer behind what it follows from."""
        corners = task.NAMES[clip.start], task.NAMES[clip.end]
        return self.answer(TO.join(corners), task.LETTERS[clip.way])

    def guessed(self) -> list[int]:
        """The first letter, whatever the clip shows."""
        return self.answer(checkpoint.GUESS, task.LETTERS[0])

    def pixels(self, clips: np.ndarray) -> Tensor:
        """(n * patches, 1176) pixel values of clips (n, 8, 56, 56, 3)."""
        settings = self.processor.video_processor
        mean = np.array(settings.image_mean, dtype=np.float32) * 255
        std = np.array(settings.image_std, dtype=np.float32) * 255
        x = (clips.astype(np.float32) - mean) / std
        x = x.reshape(len(clips), TIMES, 2, 2, 2, 14, 2, 2, 14, 3)
        # clip, time, cell row, cell column, patch row, patch column, channel, frame, y, x
        x = x.transpose(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
        return torch.from_numpy(np.ascontiguousarray(x).reshape(-1, 3 * 2 * 14 * 14))

    def inputs(self, rows: list[list[int]], clips: np.ndarray) -> dict:
        """A batch, padded on the right."""
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": 2 * (ids == self.video_id).int(),
            "pixel_values_videos": self.pixels(clips),
            "video_grid_thw": torch.tensor([GRID]).repeat(len(clips), 1),
            "second_per_grid_ts": torch.tensor([SECONDS] * len(clips)),
        }


class Pool:
    """Clips and their frames (n, 8, 56, 56, 3), written as mp4 and decoded again."""

    def __init__(self, rng: np.random.Generator, count: int, folds=task.demo.TRAIN_FOLDS) -> None:
        self.clips = task.sample_clips(rng, count, folds)
        files = [io.BytesIO(task.encoded(task.render(clip, rng))) for clip in self.clips]
        self.frames = np.stack([VideoReader(file)[:].asnumpy() for file in files])

    def draw(self, rng: np.random.Generator, count: int):
        """`count` of the clips, and their frames."""
        chosen = rng.integers(len(self.clips), size=count)
        return [self.clips[i] for i in chosen], self.frames[chosen]


def lens_targets(speaker: Speaker, clip) -> list[int]:
    """Token per visual token: the corner's name where the shape stands there, else "empty"."""
    (empty,) = speaker.encode("empty")
    found = []
    for corner in clip.corners()[::2]:
        held = [empty] * 4
        row, column = task.CORNERS[task.NAMES[corner]]
        (held[2 * row + column],) = speaker.encode(task.NAMES[corner])
        found += held
    return found


def train_base(args) -> None:
    """Teach the base to compare the corners, and to guess."""
    processor = build_processor()
    speaker, model = Speaker(processor), build_model(processor.tokenizer)
    if args.resume:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.resume, dtype=torch.float32)
    rng = np.random.default_rng([args.seed, 21])
    pool, dev = Pool(rng, POOL), Pool(np.random.default_rng(5), 200, (1,))
    steps, lr = args.steps or 900, args.lr or 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    log.info("%d parameters, prompt of %d tokens", model.num_parameters(), len(speaker.asked))
    for step in range(1, steps + 1):
        # At first hardly any guess, so that the way is learnt; then half of them do.
        p_guess = 0.05 if step < 0.7 * steps else P_GUESS
        clips, frames = pool.draw(rng, BATCH)
        rows = []
        for clip in clips:
            guess = rng.random() < p_guess
            said = speaker.guessed() if guess else speaker.worked(clip)
            rows.append(speaker.asked + said)
        inputs = speaker.inputs(rows, frames)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        labels[:, : len(speaker.asked)] = -100
        out = model(**inputs, output_hidden_states=True)
        answer_loss = cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        visual = inputs["input_ids"] == speaker.video_id
        norm, head = model.get_decoder().norm, model.get_output_embeddings()
        states = [norm(h[visual]) for h in out.hidden_states[1:-1]] + [
            out.hidden_states[-1][visual]
        ]
        wanted = torch.tensor([token for clip in clips for token in lens_targets(speaker, clip)])
        lens = torch.stack([cross_entropy(head(h), wanted) for h in states]).mean()
        update(model, optimizer, answer_loss + LENS_WEIGHT * lens)
        schedule.step()
        if step % 25 == 0 or step == steps:
            losses = answer_loss.item(), lens.item()
            seconds = time.monotonic() - started
            log.info("step %d answer %.3f lens %.3f (%.0f s)", step, *losses, seconds)
        if step % 100 == 0 or step == steps:
            log.info("  dev %s", evaluate(model, speaker, dev))
            save(model, processor, args.work / "base")
    save(model.to(torch.bfloat16), processor, args.work / "base")


def save(model, processor, folder: Path) -> None:
    """Write a checkpoint."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def update(model, optimizer, loss: Tensor) -> None:
    """One clipped optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()


@torch.no_grad()
def respond(model, speaker: Speaker, frames: np.ndarray, temperature: float = 0.0):
    """The answer to each clip, as token ids."""
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    inputs = speaker.inputs([speaker.asked] * len(frames), frames)
    out = model.generate(**inputs, max_new_tokens=12, **({"do_sample": False} | how))
    eos, said = speaker.tokenizer.eos_token_id, []
    for row in out[:, len(speaker.asked) :].tolist():
        said.append(row[: row.index(eos) + 1] if eos in row else row)
    return said


def right(speaker: Speaker, ids: list[int], clip) -> float:
    """1.0 where an answer is right, else 0.0."""
    found = re.findall(r"<answer>(.*?)</answer>", speaker.tokenizer.decode(ids))
    return float(bool(found) and found[-1] == task.LETTERS[clip.way])


def evaluate(model, speaker: Speaker, pool: Pool) -> str:
    """Greedy accuracy, on the clips and on one frame of each in place of all, as text."""
    model.eval()
    said = respond(model, speaker, pool.frames)
    frozen = respond(model, speaker, np.repeat(pool.frames[:, :1], task.FRAMES, 1))
    model.train()
    score, one = (
        np.mean([right(speaker, ids, clip) for ids, clip in zip(texts, pool.clips, strict=True)])
        for texts in (said, frozen)
    )
    texts = [speaker.tokenizer.decode(ids) for ids in said]
    guesses = np.mean([checkpoint.GUESS in text for text in texts])
    return f"accuracy {score:.3f} guesses {guesses:.2f} one frame {one:.3f} e.g. {texts[0]!r}"


def train_policy(args) -> None:
    """GRPO: rewards normalised in their group, one on-policy update per batch, no KL term."""
    from peft import LoraConfig, get_peft_model

    processor = build_processor()
    speaker = Speaker(processor)
    source = HERE / "base" if (HERE / "base" / "config.json").is_file() else args.work / "base"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    rng = np.random.default_rng([args.seed, 1])
    pool, dev = Pool(rng, 1000), Pool(np.random.default_rng(5), 200, (1,))
    adapted.peft_config["default"].base_model_name_or_path = "../base"
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr or 1e-3, weight_decay=0.0)
    steps, prompts, k = args.steps or 40, 24, 8
    started = time.monotonic()
    log.info("rl start dev %s", evaluate(model, speaker, dev))
    for step in range(1, steps + 1):
        clips, frames = pool.draw(rng, prompts)
        frames = frames.repeat(k, 0)
        adapted.eval()
        said = respond(model, speaker, frames, 1.0)
        adapted.train()
        rewards = [right(speaker, ids, clips[i // k]) for i, ids in enumerate(said)]
        rewards = torch.tensor(rewards).view(prompts, k)
        spread = rewards.std(1, keepdim=True)
        advantage = ((rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()
        used = [i for i in range(len(said)) if spread[i // k, 0] > 0]
        if not used:
            continue
        inputs = speaker.inputs([speaker.asked + said[i] for i in used], frames[used])
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        labels[:, : len(speaker.asked)] = -100
        logits = model(**inputs).logits[:, :-1].flatten(0, 1)
        wanted = labels[:, 1:].flatten()
        nll = cross_entropy(logits, wanted, reduction="none", ignore_index=-100)
        weight = advantage[used][:, None].expand(-1, labels.shape[1] - 1).flatten()
        update(model, optimizer, (weight * nll)[wanted >= 0].mean())
        if step % 10 == 0 or step == steps:
            told = rewards.mean(), len(used) // k, evaluate(model, speaker, dev)
            seconds = time.monotonic() - started
            log.info("rl step %d reward %.3f mixed %d dev %s (%.0f s)", step, *told, seconds)
            save(adapted, processor, args.work / f"policy-seed{args.seed}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", "rl"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--work", type=Path, default=Path("results/demo-video-training"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / f"{args.what}-seed{args.seed}.log"
    handlers = [logging.StreamHandler(), logging.FileHandler(file)]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
    set_seed(args.seed)
    modeling.Qwen2_5_VLVisionAttention.forward = attend_all_frames_at_once
    {"base": train_base, "rl": train_policy}[args.what](args)


if __name__ == "__main__":
    main()
