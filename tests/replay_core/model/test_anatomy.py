"""The parts of a model, and the models that lack one."""

from typing import Any

import pytest
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from replay_core import UsageError
from replay_core.model.anatomy import anatomy_of
from tests.replay_core.helpers import Loaded, from_nowhere


def test_the_parts_are_the_models_own(loaded: Loaded) -> None:
    anatomy = anatomy_of(loaded.policy)
    assert anatomy.model is loaded.policy
    assert anatomy.head is loaded.policy.lm_head
    assert anatomy.layers is loaded.policy.model.language_model.layers
    assert anatomy.norm is loaded.policy.model.language_model.norm
    assert anatomy.name == str(loaded.folders.policy)


def test_a_model_from_nowhere_is_named_by_its_class(one: Loaded) -> None:
    model = from_nowhere(one)
    assert anatomy_of(model).name == "Qwen2_5_VLForConditionalGeneration"


def test_a_text_model_is_refused() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    model = Qwen2ForCausalLM(Qwen2Config(num_attention_heads=2, num_key_value_heads=2, **sizes))
    with pytest.raises(UsageError, match=r"Qwen2ForCausalLM .* does not take 'mm_encoder_outputs'"):
        anatomy_of(model)


@pytest.mark.parametrize(
    ("door", "part", "message"),
    [
        ("get_decoder", nn.Linear(2, 2), "its text decoder has no 'layers' and 'norm'"),
        ("get_output_embeddings", nn.Embedding(2, 2), "are not a linear head"),
        ("get_output_embeddings", None, "are not a linear head"),
    ],
)
def test_a_model_without_a_door_is_refused(
    one: Loaded, monkeypatch: pytest.MonkeyPatch, door: str, part: Any, message: str
) -> None:
    monkeypatch.setattr(one.policy, door, lambda: part)
    with pytest.raises(UsageError, match=message):
        anatomy_of(one.policy)


def test_a_decoder_without_norm_is_refused(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = nn.Module()
    decoder.layers = nn.ModuleList()
    monkeypatch.setattr(one.policy, "get_decoder", lambda: decoder)
    with pytest.raises(UsageError, match="no 'layers' and 'norm'"):
        anatomy_of(one.policy)
