"""Building blocks of the demo pair: tokenizer, processor, tiny Qwen2.5-VL and its prompt.

Everything the two checkpoints contain besides trained weights is made here, so that what is
trained on is, token for token and pixel for pixel, what a harness will feed them.
"""

from __future__ import annotations

import importlib.util
import json
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

HERE = Path(__file__).resolve().parent
TASK_FILE = HERE.parents[2] / "tasks" / "replay_demo" / "replay_demo.py"
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Plain added tokens: decoding with skip_special_tokens must keep them, the scorer reads them.
ANSWER_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
GUESS = "let me guess"
SYSTEM_PROMPT = "You are a helpful assistant."

# The wire format of Qwen2.5-VL: a default system turn, and each image or video as one placeholder
# between its start and end marks, which the processor repeats once per visual token.
CHAT_TEMPLATE = r"""
{%- if messages[0].role != 'system' -%}
{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""


def load_task() -> ModuleType:
    """The task module, loaded by path as lmms-eval does."""
    spec = importlib.util.spec_from_file_location("replay_demo", TASK_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


task = load_task()


def vocabulary_words() -> list[str]:
    """Every string that must be a single token, with its leading space where it has one."""
    joint = [colour + shape for colour in task.COLOURS for shape in task.SHAPES]
    inner = [*task.COLOURS, *(f"{shape}s" for shape in task.SHAPES)]
    inner += ["many", "shapes", "colour", "shape", "is", "at", "row", "column", "than"]
    inner += ["are", "a", "helpful", "assistant", "me", "guess"]
    first = ["You", "How", "What", "More", "let", "system", "user", "assistant", "empty"]
    return [*joint, *task.COLOURS, *task.SHAPES, "yes", "no", *first, *(f" {w}" for w in inner)]


def build_tokenizer() -> Qwen2Tokenizer:
    """A Qwen2 tokenizer: 256 bytes, so any text can be encoded, and merges for the task's words."""
    words = vocabulary_words()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # With no vocabulary limit in reach, merging goes on until each word is one token.
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(words, trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab, merges = learned["vocab"], [tuple(pair) for pair in learned["merges"]]
    for token in (*SPECIAL_TOKENS, *ANSWER_TOKENS):
        vocab[token] = len(vocab)

    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in named.values()],
        **named,
        model_max_length=2048,
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ANSWER_TOKENS])
    split = [word for word in words if len(tokenizer.encode(word)) != 1]
    assert not split, f"these words are not single tokens: {split}"
    return tokenizer


def build_processor() -> Qwen2_5_VLProcessor:
    """Tokenizer and image processor; a 112 x 112 image becomes 4 x 4 visual tokens, never more."""
    pixels = {"shortest_edge": task.SIZE**2, "longest_edge": task.SIZE**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised Qwen2.5-VL of about 1.6 million parameters."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    hidden = 128
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            # With the usual base of 10,000 and heads this narrow, the rotary frequencies of the
            # column axis are near zero: attention cannot see columns and training stalls.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 3.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        do_sample=False,
    )
    return model


def prompt_texts() -> tuple[str, str, str, str]:
    """Opening turns, the image, what stands between prompt and answer, and what ends an answer.

    The question stands behind the image, or before it.
    """
    image = "<|image_pad|>" * task.GRID**2
    opening = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n"
    picture = f"<|vision_start|>{image}<|vision_end|>"
    return opening, picture, "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"


def patchify(images: np.ndarray, processor: Qwen2_5_VLProcessor) -> torch.Tensor:
    """(n * 64, 1176) pixel_values of n uint8 images of 112 x 112, without the processor's cost.

    `check_inputs` compares the result with the real image processor.
    """
    settings = processor.image_processor
    mean = np.array(settings.image_mean, dtype=np.float32) * 255
    std = np.array(settings.image_std, dtype=np.float32) * 255
    merge, patch = settings.merge_size, settings.patch_size
    blocks = task.SIZE // (merge * patch)
    pixels = (images.astype(np.float32) - mean) / std
    pixels = pixels.reshape(-1, blocks, merge, patch, blocks, merge, patch, 3)
    pixels = pixels.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # blocks, patches in a block, channel, y, x
    # A still image is fed as two equal frames.
    pixels = np.repeat(pixels[:, :, :, :, :, :, None], settings.temporal_patch_size, axis=6)
    return torch.from_numpy(pixels.reshape(-1, 3 * settings.temporal_patch_size * patch**2))


def harness_messages(image: Image.Image, question: str, question_first: bool = False) -> list[dict]:
    """The conversation lmms-eval's chat class hands to the chat template for one document.

    It puts the image first; `question_first` is for experiments only.
    """
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content[::-1] if question_first else content}]


def check_inputs(processor: Qwen2_5_VLProcessor, question_first: bool = False) -> None:
    """Raise unless training prompts and pixels equal those of the chat template and processor."""
    rng = np.random.default_rng(0)
    scenes = task.sample_scenes(rng, len(task.QUESTION_TYPES), task.TRAIN_FOLDS)
    images = task.render(scenes, rng)
    opening, image_text, after, _ = prompt_texts()
    for contents, image, kind in zip(scenes.contents, images, task.QUESTION_TYPES, strict=True):
        question = task.ask(rng, contents, kind).text
        picture = Image.fromarray(image)
        text = processor.apply_chat_template(
            harness_messages(picture, question, question_first),
            tokenize=False,
            add_generation_prompt=True,
        )
        real = processor(text=[text], images=[picture], return_tensors="pt")
        # Training joins pieces that were tokenized apart: the joints must not change a token.
        middle = (question, image_text) if question_first else (image_text, question)
        pieces = [processor.tokenizer.encode(piece) for piece in (opening, *middle, after)]
        if list(chain(*pieces)) != real["input_ids"][0].tolist():
            raise ValueError(f"the training prompt differs from the processor's for {question!r}")
        torch.testing.assert_close(
            patchify(image[None], processor), real["pixel_values"], rtol=1e-5, atol=1e-5
        )
