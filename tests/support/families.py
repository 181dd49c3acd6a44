"""The families beyond the two older Qwens: what their tiny checkpoints and processors are made of.

Each has what makes it different: Qwen3-VL its deepstack features, InternVL its tiles, LLaVA a
decoder with a sliding window, LLaVA-OneVision newline features, Gemma 3 scaled embeddings, tied
head, sliding layers and image tokens that see each other, GLM-4.1V videos on image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import (
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Glm4vConfig,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PretrainedConfig,
    ProcessorMixin,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

if TYPE_CHECKING:
    from tests.support.tiny import TinySize

HEAD_DIM = 16
TILE = 28  # side in pixels of what the towers with a fixed size see: 4 x 4 patches of 7
PATCH = 7


@dataclass(frozen=True)
class Family:
    """How one family's checkpoint is made; ``image`` and ``video`` stand for one in the prompt."""

    special: tuple[str, ...]
    image: str
    video: str | None
    processor: Callable[[Qwen2Tokenizer, str], ProcessorMixin]
    config: Callable[[TinySize, Mapping[str, int]], PretrainedConfig]
    last_matrix: str  # the parameter that sets the features' size
    gain: float = 3.0  # and the gain it is drawn with
    roles: Mapping[str, str] | None = None  # names under which the tokenizer gives special tokens


def _text(size: TinySize, ids: Mapping[str, int], **more: Any) -> dict[str, Any]:
    heads = size.hidden_size // size.head_dim
    return {
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": size.head_dim,
        "vocab_size": size.vocab_size,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        **more,
    }


def _fixed_vision(size: TinySize, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": size.vision_hidden_size,
        "intermediate_size": 2 * size.vision_hidden_size,
        "num_hidden_layers": size.vision_depth,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
        **more,
    }


def _mrope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3], **more}


# --- Qwen3-VL -----------------------------------------------------------------------------------


def _qwen3_vl_processor(tokenizer: Qwen2Tokenizer, template: str) -> ProcessorMixin:
    side = 32**2
    pixels = {"shortest_edge": side, "longest_edge": 64 * side}
    images = Qwen2VLImageProcessor(size=pixels, patch_size=16)
    videos = Qwen3VLVideoProcessor(size={"shortest_edge": 4 * side, "longest_edge": 256 * side})
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=template)


def _qwen3_vl_config(size: TinySize, ids: Mapping[str, int]) -> PretrainedConfig:
    section = [part * size.head_dim // HEAD_DIM for part in (2, 3, 3)]
    rope = {**_mrope(mrope_interleaved=True), "mrope_section": section}
    vision = {
        "depth": size.vision_depth + 1,
        "hidden_size": size.vision_hidden_size,
        "intermediate_size": 2 * size.vision_hidden_size,
        "out_hidden_size": size.hidden_size,
        "num_heads": 2,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    return Qwen3VLConfig(
        text_config=_text(size, ids, rope_parameters=rope),
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


# --- InternVL -----------------------------------------------------------------------------------


def _internvl_processor(tokenizer: Qwen2Tokenizer, template: str) -> ProcessorMixin:
    tile = {"height": TILE, "width": TILE}
    images = GotOcr2ImageProcessor(size=tile, crop_to_patches=True, min_patches=1, max_patches=3)
    videos = InternVLVideoProcessor(size=tile)
    return InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=template)


def _internvl_config(size: TinySize, ids: Mapping[str, int]) -> PretrainedConfig:
    vision = _fixed_vision(size, "internvl_vision", image_size=[TILE] * 2, patch_size=[PATCH] * 2)
    return InternVLConfig(
        text_config=_text(size, ids, model_type="qwen2"),
        vision_config=vision,
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )


# --- LLaVA --------------------------------------------------------------------------------------


def _llava_processor(tokenizer: Qwen2Tokenizer, template: str) -> ProcessorMixin:
    images = CLIPImageProcessor(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )


def _llava_config(size: TinySize, ids: Mapping[str, int]) -> PretrainedConfig:
    # A window shorter than the prompts, and than what stands before a picture.
    text = _text(size, ids, model_type="mistral", sliding_window=12)
    return LlavaConfig(
        text_config=text,
        vision_config=_fixed_vision(size, "clip_vision_model", projection_dim=16),
        image_token_index=ids["<image>"],
        image_seq_length=16,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


# --- LLaVA-OneVision ----------------------------------------------------------------------------

_PINPOINTS = [[TILE * rows, TILE * columns] for rows in (1, 2) for columns in (1, 2)]


def _llava_onevision_processor(tokenizer: Qwen2Tokenizer, template: str) -> ProcessorMixin:
    tile = {"height": TILE, "width": TILE}
    images = LlavaOnevisionImageProcessor(size=tile, image_grid_pinpoints=_PINPOINTS)
    videos = LlavaOnevisionVideoProcessor(size=tile)
    return LlavaOnevisionProcessor(
        images,
        tokenizer,
        videos,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def _llava_onevision_config(size: TinySize, ids: Mapping[str, int]) -> PretrainedConfig:
    return LlavaOnevisionConfig(
        text_config=_text(size, ids, model_type="qwen2"),
        vision_config=_fixed_vision(size, "siglip_vision_model", vision_use_head=False),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )


# --- Gemma 3 ------------------------------------------------------------------------------------


def _gemma3_processor(tokenizer: Qwen2Tokenizer, template: str) -> ProcessorMixin:
    images = Gemma3ImageProcessor(size={"height": TILE, "width": TILE})
    return Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=16)


def _gemma3_config(size: TinySize, ids: Mapping[str, int]) -> PretrainedConfig:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    text = _text(
        size,
        ids,
        query_pre_attn_scalar=HEAD_DIM,
        sliding_window=12,
        layer_types=[kinds[layer % 3] for layer in range(size.num_hidden_layers)],
    )
    return Gemma3Config(
        text_config=text,
        vision_config=_fixed_vision(size, "siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=16,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        tie_word_embeddings=True,
    )


# --- GLM-4.1V -----------------------------------------------------------------------------------


def _glm4v_processor(tokenizer: Qwen2Tokenizer, template: str) -> ProcessorMixin:
    side = 28**2
    images = Glm4vImageProcessor(size={"shortest_edge": side, "longest_edge": 128 * side})
    videos = Glm4vVideoProcessor(size={"shortest_edge": side, "longest_edge": 256 * side})
    return Glm4vProcessor(images, tokenizer, videos, chat_template=template)


def _glm4v_config(size: TinySize, ids: Mapping[str, int]) -> PretrainedConfig:
    vision = {
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden_size,
        "out_hidden_size": size.hidden_size,
        "intermediate_size": 2 * size.vision_hidden_size,
        "num_heads": 2,
        "image_size": 112,
    }
    rope = {**_mrope(partial_rotary_factor=0.5), "mrope_section": [1, 1, 2]}
    return Glm4vConfig(
        text_config=_text(size, ids, rope_parameters=rope),
        vision_config=vision,
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
        tie_word_embeddings=False,
    )


FAMILIES: dict[str, Family] = {
    "qwen3_vl": Family(
        ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|video_pad|>",
        _qwen3_vl_processor,
        _qwen3_vl_config,
        "model.visual.merger.linear_fc2.weight",
    ),
    "internvl": Family(
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        "<IMG_CONTEXT>",
        "<video>",
        _internvl_processor,
        _internvl_config,
        "model.multi_modal_projector.linear_2.weight",
        roles={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "llava": Family(
        ("<image>",),
        "<image>\\n",
        None,
        _llava_processor,
        _llava_config,
        "model.multi_modal_projector.linear_2.weight",
    ),
    "llava_onevision": Family(
        ("<image>", "<video>"),
        "<image>\\n",
        "<video>\\n",
        _llava_onevision_processor,
        _llava_onevision_config,
        "model.multi_modal_projector.linear_2.weight",
    ),
    "gemma3": Family(
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        "<start_of_image>",
        None,
        _gemma3_processor,
        _gemma3_config,
        "model.multi_modal_projector.mm_input_projection_weight",
        roles={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "glm4v": Family(
        (
            "<|begin_of_image|>",
            "<|image|>",
            "<|end_of_image|>",
            "<|begin_of_video|>",
            "<|video|>",
            "<|end_of_video|>",
        ),
        "<|begin_of_image|><|image|><|end_of_image|>",
        "<|begin_of_video|><|video|><|end_of_video|>",
        _glm4v_processor,
        _glm4v_config,
        "model.visual.merger.down_proj.weight",
        gain=8.0,
    ),
}
