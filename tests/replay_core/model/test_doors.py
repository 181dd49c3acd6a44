"""A model's doors lead where the lens and the window take them to lead, or it is refused."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    PaliGemmaConfig,
    PretrainedConfig,
)

from replay_core import UsageError
from replay_core.model.anatomy import anatomy_of
from replay_core.model.doors import check_doors
from tests.replay_core.helpers import Loaded, doubled_logits, hooked, state_of


def test_the_doors_of_a_plain_model_are_right(either: Loaded) -> None:
    before = state_of(either.policy)
    check_doors(either.pair.policy)
    assert state_of(either.policy) == before


def test_scaled_logits_are_refused(loaded: Loaded) -> None:
    before = state_of(loaded.policy)
    with doubled_logits(loaded.policy), pytest.raises(UsageError) as caught:
        check_doors(loaded.pair.policy)
    assert str(loaded.folders.policy) in str(caught.value)
    assert "its logits are not head(norm(h)) of its last layer" in str(caught.value)
    assert state_of(loaded.policy) == before


def test_a_head_that_is_more_than_its_weights_is_refused(one: Loaded) -> None:
    # The lens multiplies by head.weight: what a hook or a wrapper adds, it would not see.
    hook = one.policy.lm_head.register_forward_hook(lambda module, args, output: 2 * output)
    with hooked([hook]), pytest.raises(UsageError, match="its logits are not head"):
        check_doors(one.pair.policy)


TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}


def anatomy_from(config: PretrainedConfig) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return anatomy_of(AutoModelForImageTextToText.from_config(config).eval())


def test_capped_logits_are_refused_with_their_cap_however_small_they_are() -> None:
    """At these logits the cap moves them by less than 1e-4: no tolerance would tell."""
    text = {**TEXT, "model_type": "gemma2", "final_logit_softcapping": 30.0}
    anatomy = anatomy_from(
        PaliGemmaConfig(
            text_config=text, vision_config=VISION, image_token_index=290, projection_dim=64
        )
    )
    with pytest.raises(UsageError, match=r"its config has final_logit_softcapping=30\.0"):
        check_doors(anatomy)


def test_a_decoder_that_looks_ahead_is_refused() -> None:
    text = {**TEXT, "use_bidirectional_attention": True}
    anatomy = anatomy_from(
        Gemma3Config(
            text_config=text, vision_config=VISION, mm_tokens_per_image=16, image_token_index=290
        )
    )
    with pytest.raises(UsageError, match="its text decoder is not causal"):
        check_doors(anatomy)
