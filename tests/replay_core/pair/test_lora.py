"""A LoRA pair is its two merged checkpoints in one set of weights, and is left as found."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from replay_core import Steered, UsageError, load_pair, make_pair
from replay_core.pair.loading import load_config
from replay_core.pair.lora import adapted_base, adapter_layers, without_adapter
from tests.replay_core.helpers import (
    Loaded,
    gap,
    outcomes,
    same_answer,
    stable,
    state_of,
    told,
)
from tests.support import tiny

TEXT = r".*language_model.*(q_proj|v_proj|down_proj)"
EVERYWHERE = ["q_proj", "v_proj", "down_proj", "qkv"]

Adapt = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def adapt(tmp_path_factory: pytest.TempPathFactory, load: Any) -> Adapt:
    """Return a maker: a family and target modules → folders of an adapter and of it merged."""

    def make(family: str = "qwen2_5_vl", targets: Any = TEXT, **more: Any) -> tuple[Path, Path]:
        base = load(family).folders.base
        root = tmp_path_factory.mktemp("lora")
        lora = LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **more
        )
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = get_peft_model(tiny.load_model(base), lora)
        with torch.no_grad():  # as far from the base as the pairs that the settings are stable for
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.mul_(0.15)
        model.save_pretrained(root / "adapter")
        merged = model.merge_and_unload()
        merged.save_pretrained(root / "merged")
        tiny.load_processor(base).save_pretrained(root / "merged")
        return root / "adapter", root / "merged"

    return make


@pytest.mark.parametrize("targets", [TEXT, EVERYWHERE], ids=["text", "tower_too"])
def test_a_lora_pair_is_its_two_checkpoints(
    loaded: Loaded, family: str, adapt: Adapt, targets: Any
) -> None:
    adapter, merged = adapt(family, targets)
    inputs = loaded.batch("mixed")
    one, two = load_pair(adapter), load_pair(merged, loaded.folders.base)
    assert one.adapted
    assert one.shared_vision == two.shared_vision == (targets is TEXT)
    results = [Steered(pair, stable()).optimise(inputs) for pair in (one, two)]
    assert (
        outcomes(results[0]) == outcomes(results[1]) == ["applied", "no_visual_tokens", "applied"]
    )
    assert gap(results[0].delta, results[1].delta) < 1e-4
    answers = [
        Steered(pair, stable(method=method)).generate(**inputs, **told()).logits[0]
        for pair in (one, two)
        for method in ("base", "inject", "replay", "none")
    ]
    for ours, theirs in zip(answers[:4], answers[4:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answers[0], answers[3], atol=1e-2)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_lora_pair_is_left_as_found(one: Loaded, adapt: Adapt, trainable: bool) -> None:
    adapter, _ = adapt()
    pair, inputs = load_pair(adapter, one.folders.base), one.batch("mixed")
    model = pair.policy.model
    for name, weight in model.named_parameters():
        weight.requires_grad_(trainable and "lora" in name)
    before, plain = state_of(model), model.generate(**inputs, **told())
    for method in ("replay", "inject", "base"):
        Steered(pair, stable(method=method, steps=2)).generate(**inputs, **told())
        assert state_of(model) == before
        assert same_answer(model.generate(**inputs, **told()), plain)


def test_the_base_of_a_lora_pair_is_the_checkpoint_it_was_trained_on(
    one: Loaded, adapt: Adapt
) -> None:
    adapter, _ = adapt()
    pair, inputs = load_pair(adapter), one.batch("mixed")
    expected = one.base.generate(**inputs, **told())
    steered = Steered(pair, stable(method="base"))
    assert same_answer(steered.generate(**inputs, **told()), expected)
    assert same_answer(steered.decode(inputs, steered.optimise(inputs), **told()), expected)


def test_an_adapter_is_back_after_an_exception(one: Loaded, adapt: Adapt) -> None:
    model = load_pair(adapt()[0]).policy.model
    off = []
    with contextlib.suppress(RuntimeError), without_adapter(model):
        off = [layer.disable_adapters for layer in adapter_layers(model)]
        raise RuntimeError("stop")
    assert off
    assert all(off)
    assert not any(layer.disable_adapters for layer in adapter_layers(model))


def test_an_adapter_names_its_base_and_its_revision(one: Loaded, adapt: Adapt) -> None:
    adapter, merged = adapt()
    assert adapted_base(adapter).endswith("/base")
    assert adapted_base(merged) is None
    assert adapted_base("nowhere/at-all") is None
    assert load_config(adapter).model_type == "qwen2_5_vl"
    pair = load_pair(adapter)
    assert pair.name == "adapter"
    assert pair.policy_revision.startswith(f"{pair.base_revision}+sha256:")


def test_a_whole_checkpoint_beside_an_adapters_config_is_a_checkpoint(
    one: Loaded, adapt: Adapt, tmp_path: Path
) -> None:
    adapter, merged = adapt()
    shutil.copytree(merged, tmp_path / "both")
    shutil.copy(adapter / "adapter_config.json", tmp_path / "both")
    assert adapted_base(tmp_path / "both") is None


def test_a_model_without_adapter_needs_a_base(one: Loaded) -> None:
    with pytest.raises(UsageError, match="carries no LoRA adapter, so it needs a base"):
        make_pair(one.policy)
    with pytest.raises(UsageError, match="is no LoRA adapter, so a base must be named"):
        load_pair(one.folders.policy)


def test_a_lora_pair_has_no_base_of_its_own(adapt: Adapt) -> None:
    adapter, _ = adapt()
    with pytest.raises(UsageError, match="shares its weights with its base"):
        load_pair(adapter, base_device_map="cpu")


def test_an_adapter_without_base_is_refused(adapt: Adapt, tmp_path: Path) -> None:
    shutil.copytree(adapt()[0], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(UsageError, match="names no base_model_name_or_path"):
        load_pair(tmp_path / "adapter")


def test_an_adapter_that_does_not_fit_is_refused(adapt: Adapt, tmp_path: Path) -> None:
    other = tiny.make_checkpoint(tmp_path, "qwen2_5_vl", seed=0, hidden_size=96)
    with pytest.raises(UsageError, match="cannot be put onto"):
        load_pair(adapt()[0], other)


def test_an_adapter_on_the_head_is_refused(adapt: Adapt) -> None:
    adapter, _ = adapt(targets=["q_proj", "lm_head"])
    with pytest.raises(UsageError, match="its output embeddings are not a linear head"):
        load_pair(adapter)
