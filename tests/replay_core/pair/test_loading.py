"""A checkpoint is loaded whole, or refused in one sentence; no model runs on weights made up."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText

from replay_core import UsageError, load_pair, make_pair
from replay_core.pair.loading import load_config, load_model
from tests.replay_core.helpers import Loaded
from tests.support import tiny

Weights = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def saved(one: Loaded, tmp_path: Path) -> Callable[..., Path]:
    """Return a maker: what to do to the weights of the policy → a folder with what comes out."""

    def make(change: Callable[[Weights], Weights], name: str = "changed", **config: object) -> Path:
        folder = shutil.copytree(one.folders.policy, tmp_path / name)
        weights = {k: v.contiguous() for k, v in change(load_file(folder / SAFE)).items()}
        save_file(weights, folder / SAFE, metadata={"format": "pt"})
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return folder

    return make


SAFE = "model.safetensors"


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {
        name: value for name, value in weights.items() if not any(part in name for part in parts)
    }


def also(**more: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{k.replace("__", "."): v for k, v in more.items()}}


def reshaped(weights: Weights) -> Weights:
    return {**weights, DOWN: weights[DOWN][:, :100]}


ALL = "93 of its model's weights are missing"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (prefixed("module."), [ALL, "93 that it holds are unknown to its model (module.lm_head."]),
        (prefixed("_fsdp_wrapped_module."), [ALL, "93 that it holds", "(_fsdp_wrapped_module.lm_"]),
        (prefixed("base_model.model."), [ALL, "(base_model.model.lm_head.weight, …)"]),
        (without("layers.3.", "layers.4."), ["24 of its", "layers.3.input_layernorm.weight, "]),
        (without("layers.2.mlp"), ["3 of its", ".down_proj.weight, ", ".up_proj.weight)"]),
        (without("visual."), ["30 of its", "model.visual.blocks.0.attn.proj.bias, "]),
        (without("lm_head"), ["1 of its model's weights are missing (lm_head.weight)"]),
        (without(""), [ALL]),
        (also(v_head__weight=torch.zeros(3)), ["1 that it holds are unknown", "(v_head.weight)"]),
        (reshaped, ["1 have another shape", "down_proj.weight ((64, 100) instead of (64, 128))"]),
    ],
    ids=lambda value: None if callable(value) else "",
)
def test_weights_that_are_not_those_of_the_config_are_one_sentence(
    one: Loaded,
    saved: Callable[..., Path],
    change: Callable[[Weights], Weights],
    told: list[str],
) -> None:
    folder = saved(change)
    for policy, base in ((folder, one.folders.base), (one.folders.policy, folder)):
        with pytest.raises(UsageError) as error:
            load_pair(policy, base)
        text = str(error.value)
        assert text.startswith(f"{folder} does not hold the weights of the model in its config")
        assert "\n" not in text
        assert all(part in text for part in told), text
        assert text.count(".weight") + text.count(".bias") <= 3


def test_the_report_is_not_printed_beside_the_sentence(
    saved: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger("transformers")
    monkeypatch.setattr(root, "propagate", True)
    monkeypatch.setattr(root, "level", logging.WARNING)
    folder = saved(without("visual."))
    AutoModelForImageTextToText.from_pretrained(folder)
    assert "LOAD REPORT" in caplog.text
    caplog.clear()
    with pytest.raises(UsageError):
        load_model(folder)
    assert caplog.text == ""
    AutoModelForImageTextToText.from_pretrained(folder)
    assert "LOAD REPORT" in caplog.text  # as found


def test_a_config_of_fewer_layers_than_were_saved_is_refused(saved: Callable[..., Path]) -> None:
    config = json.loads((saved(lambda weights: weights, "whole") / "config.json").read_text())
    fewer = {**config["text_config"], "num_hidden_layers": 3}
    fewer |= {"layer_types": fewer["layer_types"][:3]} if "layer_types" in fewer else {}
    folder = saved(lambda weights: weights, text_config=fewer)
    with pytest.raises(UsageError, match=r"24 that it holds are unknown to its model \(.*layers.3"):
        load_model(folder)


def logits(folder: Path, one: Loaded) -> Tensor:
    with torch.no_grad():
        return load_model(folder)(**one.batch("two_images")).logits


def test_names_of_transformers_4_go_on_loading(
    one: Loaded, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """And those that its version 5 gives the same weights in memory."""

    def old(weights: Weights) -> Weights:
        back = {"model.language_model.": "model.", "model.visual.": "visual."}
        for new, before in back.items():
            weights = {name.replace(new, before, 1): value for name, value in weights.items()}
        return weights

    def now(weights: Weights) -> Weights:
        return {name: value.clone() for name, value in one.policy.state_dict().items()}

    names = set(load_file(saved(old, "old") / SAFE))
    assert {DOWN, "visual.blocks.0.attn.qkv.weight", "lm_head.weight"} <= names
    names = set(load_file(saved(now, "now") / SAFE))
    assert "model.language_model.layers.1.mlp.down_proj.weight" in names
    expected = logits(one.folders.policy, one)
    for name in ("old", "now"):
        assert torch.equal(logits(tmp_path / name, one), expected)


def test_a_tied_head_need_not_be_saved(one: Loaded, saved: Callable[..., Path]) -> None:
    folder = saved(without("lm_head"), tie_word_embeddings=True)
    model = load_model(folder)
    assert torch.equal(model.lm_head.weight, one.policy.get_input_embeddings().weight)


def test_what_the_models_class_calls_ignorable_is_no_damage(saved: Callable[..., Path]) -> None:
    buffers = also(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    load_model(saved(buffers))


@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_every_family_loads_without_a_word(load: Callable[..., Loaded], family: str) -> None:
    folder = load(family).folders.policy
    ours = load_model(folder)
    theirs = AutoModelForImageTextToText.from_pretrained(folder)
    assert all(
        torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items()
    )
    assert not ours.training


def test_a_base_that_was_saved_quantised_loads(one: Loaded, tmp_path: Path) -> None:
    """Its file holds more than weights: bitsandbytes' scales."""
    load_model(one.folders.base, quantization="8bit").save_pretrained(tmp_path / "base")
    quantised = load_model(tmp_path / "base")
    assert "Linear8bit" in type(quantised.get_decoder().layers[0].mlp.down_proj).__name__
    make_pair(one.policy, quantised)


def test_a_checkpoint_without_weights_is_refused(one: Loaded, tmp_path: Path) -> None:
    shutil.copy(one.folders.policy / "config.json", tmp_path)
    with pytest.raises(UsageError, match="holds no image-text-to-text model"):
        load_model(tmp_path)


def test_generation_settings_that_are_no_json_are_refused(one: Loaded, tmp_path: Path) -> None:
    """Transformers passes over the file, and answers end at other tokens."""
    folder = shutil.copytree(one.folders.policy, tmp_path / "copy")
    (folder / "generation_config.json").write_text('{"eos_token_id": 3,')
    with pytest.raises(UsageError, match=r"generation_config.json is not JSON .* mend it"):
        load_config(folder)
    (folder / "generation_config.json").unlink()
    load_config(folder)


def test_a_checkpoint_and_an_adapter_in_one_folder_are_refused(one: Loaded, tmp_path: Path) -> None:
    """Transformers would put the adapter onto the checkpoint beside it."""
    folder = shutil.copytree(one.folders.policy, tmp_path / "both")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x"}))
    with pytest.raises(UsageError, match="holds a whole checkpoint and the adapter_config"):
        load_model(folder)
