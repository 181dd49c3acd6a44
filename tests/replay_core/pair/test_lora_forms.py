"""Every form of LoRA is what peft loads, and its base is the plain checkpoint."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from replay_core import Steered, UsageError, load_pair, make_pair
from replay_core.model.vision import visual_features
from replay_core.pair.identity import checkpoint_revision
from replay_core.pair.loading import load_model
from replay_core.pair.lora import adapted_base, add_adapter
from tests.replay_core.helpers import Loaded, outcomes, same_answer, stable, told
from tests.support import tiny

TEXT = r".*language_model.*(q_proj|v_proj|down_proj)"
EVERYWHERE = ["q_proj", "v_proj", "down_proj", "qkv"]

# One model with the adapter on and off; two, where the adapter changed weights of the base.
ONE, TWO = True, False
FORMS: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({}, ONE),
    "tower_too": ({"target_modules": EVERYWHERE}, ONE),
    "dora": ({"use_dora": True}, ONE),
    "dora_on_the_tower": ({"target_modules": EVERYWHERE, "use_dora": True}, ONE),
    "rank_stabilised": ({"use_rslora": True}, ONE),
    "patterns": (
        {
            "target_modules": EVERYWHERE,
            "rank_pattern": {"q_proj": 7, "qkv": 2},
            "alpha_pattern": {"v_proj": 31},
        },
        ONE,
    ),
    "a_norm_trained_whole": ({"modules_to_save": ["norm"]}, ONE),
    "a_merger_trained_whole": ({"modules_to_save": ["merger"]}, ONE),
    "some_tokens": ({"trainable_token_indices": [5, 6, 70]}, ONE),
    "bias_of_b": ({"lora_bias": True}, ONE),
    "bias_all": ({"bias": "all"}, TWO),
    "bias_all_on_the_tower": ({"target_modules": ["qkv"], "bias": "all"}, TWO),
    "bias_lora_only": ({"bias": "lora_only"}, TWO),
    "bias_lora_only_on_the_tower": ({"target_modules": EVERYWHERE, "bias": "lora_only"}, TWO),
    "a_head_trained_whole": ({"modules_to_save": ["lm_head"]}, TWO),
    "pissa": ({"init_lora_weights": "pissa"}, TWO),
    "olora": ({"init_lora_weights": "olora"}, TWO),
}


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, load: Any) -> Callable[..., Path]:
    """Return a maker: LoRA settings → the folder of an adapter whose every weight was moved."""

    def make(family: str = "qwen2_5_vl", **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("form")
        lora = LoraConfig(
            **{
                **{"r": 4, "lora_alpha": 8, "target_modules": TEXT, "init_lora_weights": False},
                **settings,
            }
        )
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = get_peft_model(tiny.load_model(load(family).folders.base), lora)
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    if weight.requires_grad:
                        size = 0.02 if "lora_B" in name else 0.1
                        weight.add_(size * torch.randn(weight.shape))
        model.save_pretrained(folder)
        return folder

    return make


@torch.no_grad()
def logits(model: Any, inputs: Any) -> Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_what_peft_loads_and_its_base_the_plain_checkpoint(
    one: Loaded, train: Callable[..., Path], form: str
) -> None:
    settings, together = FORMS[form]
    adapter, inputs = train(**settings), one.batch("mixed")
    theirs = PeftModel.from_pretrained(tiny.load_model(one.folders.base), adapter).eval()
    policy, base = logits(theirs, inputs), logits(one.base, inputs)
    assert (policy - base).abs().max() > 0.1
    pair = load_pair(adapter, base_layers=5)
    assert pair.adapted is together
    assert torch.equal(logits(pair.policy.model, inputs), policy)
    with pair.as_base():
        assert torch.equal(logits(pair.base.model, inputs), base)
    towers = [visual_features(model, inputs).flat for model in (theirs.base_model.model, one.base)]
    assert pair.shared_vision is torch.equal(*towers)
    alone = load_model(adapter)
    assert torch.equal(logits(alone, inputs), policy)
    # What was proven of the logits holds for a whole answer and for x, through both routes.
    steered = Steered(pair, stable(steps=2))
    result = steered.optimise(inputs)
    assert "applied" in outcomes(result)
    ours = Steered(pair, stable(method="base")).generate(**inputs, **told())
    assert same_answer(ours, one.base.generate(**inputs, **told()))


def test_a_base_of_its_own_keeps_the_layers_that_are_read(train: Callable[..., Path]) -> None:
    pair = load_pair(train(bias="lora_only"), base_layers=2)
    assert (len(pair.policy.layers), len(pair.base.layers)) == (5, 2)
    pair = load_pair(train(), base_layers=2)
    assert len(pair.base.layers) == 5  # the policy's own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("form", ["dora", "bias_all", "a_head_trained_whole"])
def test_adapters_are_loaded_in_pefts_own_precision(
    load: Any, train: Callable[..., Path], dtype: torch.dtype, form: str
) -> None:
    loaded = load(dtype=dtype)
    adapter, inputs = train(**FORMS[form][0]), loaded.batch("one_image")
    plain = tiny.load_model(loaded.folders.base)
    theirs = PeftModel.from_pretrained(tiny.load_model(loaded.folders.base), adapter).eval()
    pair = load_pair(adapter, loaded.folders.base)
    assert torch.equal(logits(pair.policy.model, inputs), logits(theirs, inputs))
    with pair.as_base():
        assert torch.equal(logits(pair.base.model, inputs), logits(plain, inputs))


OLD_NAMES = {
    "qwen2_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "qwen2_5_vl": {"model.language_model.": "model.", "model.visual.": "visual."},
    "llava": {
        "model.language_model.": "language_model.model.",
        "lm_head": "language_model.lm_head",
    },
}


@pytest.mark.parametrize("old", [False, True], ids=["todays", "old"])
@pytest.mark.parametrize("family", OLD_NAMES)
def test_names_of_transformers_4_in_an_adapter_go_on_loading(
    load: Any, train: Callable[..., Path], tmp_path: Path, family: str, old: bool
) -> None:
    loaded = load(family)
    settings = {"use_dora": True, "bias": "all", "modules_to_save": ["lm_head"]}
    adapter = train(family, target_modules=EVERYWHERE, **settings)
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    names = OLD_NAMES[family] if old else {}
    save_file(
        {
            next(
                (
                    name.replace(f"{PEFT}{now}", f"{PEFT}{then}")
                    for now, then in names.items()
                    if name.startswith(f"{PEFT}{now}")
                ),
                name,
            ): value
            for name, value in load_file(adapter / ADAPTER).items()
        },
        folder / ADAPTER,
    )
    theirs = PeftModel.from_pretrained(tiny.load_model(loaded.folders.base), adapter).eval()
    inputs = loaded.batch("one_image")
    ours = load_pair(folder).policy.model
    assert torch.equal(logits(ours, inputs), logits(theirs, inputs))


def test_peft_itself_still_leaves_out_an_adapter_with_old_names(
    one: Loaded, train: Callable[..., Path], tmp_path: Path
) -> None:
    """When this fails, ``adapter._todays_names`` has nothing left to do."""
    folder = shutil.copytree(train(), tmp_path / "adapter")
    weights = load_file(folder / ADAPTER)
    now, then = "model.language_model.layers", "model.layers"
    save_file({n.replace(now, then): w for n, w in weights.items()}, folder / ADAPTER)
    with pytest.warns(UserWarning, match="Found missing adapter keys"):
        PeftModel.from_pretrained(tiny.load_model(one.folders.base), folder)


PEFT = "base_model.model."
ADAPTER = "adapter_model.safetensors"
Weights = dict[str, Tensor]


@pytest.mark.parametrize(
    ("settings", "change", "told"),
    [
        (
            {},
            lambda weights: {n: w for n, w in weights.items() if "layers.4." not in n},
            r"6 of its weights are missing and 0 have no place there \(.*layers.4",
        ),
        (
            {"use_dora": True},
            lambda weights: {n: w for n, w in weights.items() if "magnitude" not in n},
            r"15 of its weights are missing .*lora_magnitude_vector",
        ),
        (
            {"bias": "all"},
            lambda weights: {n: w for n, w in weights.items() if not n.endswith(".bias")},
            r"2\d of its weights are missing .*bias",
        ),
        ({}, lambda weights: {**weights, "more.lora_A.weight": torch.ones(1)}, "1 have no place"),
        ({}, lambda weights: {f"module.{n}": w for n, w in weights.items()}, "30 have no place"),
        (
            {},
            lambda weights: {n: w[:, :1].clone() for n, w in weights.items()},
            r"size mismatch for .*lora_A",
        ),
        ({}, lambda weights: {}, "30 of its weights are missing"),
    ],
    ids=["layers", "dora", "biases", "unknown", "prefix", "shape", "empty"],
)
def test_an_adapters_weights_are_all_there_and_all_used(
    train: Callable[..., Path],
    tmp_path: Path,
    settings: dict[str, Any],
    change: Callable[[Weights], Weights],
    told: str,
) -> None:
    adapter = shutil.copytree(train(**settings), tmp_path / "adapter")
    save_file(change(load_file(adapter / ADAPTER)), adapter / ADAPTER)
    with pytest.raises(UsageError, match=told) as error:
        load_pair(adapter)
    assert "cannot be put onto" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (ADAPTER, b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        (ADAPTER, b"\x00" * 40, "is cut or damaged"),
        ("non_lora_trainables.bin", b"", "holds non_lora_trainables.bin, trained weights"),
    ],
)
def test_a_damaged_adapter_is_one_sentence(
    train: Callable[..., Path], tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    adapter = shutil.copytree(train(), tmp_path / "adapter")
    (adapter / name).write_bytes(content)
    with pytest.raises(UsageError, match=told):
        load_pair(adapter)


def test_what_needs_pefts_own_forward_is_refused(
    one: Loaded, train: Callable[..., Path], tmp_path: Path
) -> None:
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(tiny.load_model(one.folders.base), prompts).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is a PROMPT_TUNING one that needs peft's own forward"):
        load_pair(tmp_path, one.folders.base)
    activated = train(alora_invocation_tokens=[3, 4])
    with pytest.raises(UsageError, match="is a LORA one that needs peft's own forward"):
        load_pair(activated)


def test_a_config_beside_an_adapter_is_not_a_whole_checkpoint(
    one: Loaded, train: Callable[..., Path], tmp_path: Path
) -> None:
    alone = train()
    adapter = shutil.copytree(alone, tmp_path / "adapter")
    shutil.copy(one.folders.base / "config.json", adapter)
    assert adapted_base(adapter) == adapted_base(alone) is not None
    assert load_pair(adapter).adapted


def test_two_adapters_on_each_other_are_refused(one: Loaded, train: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="which carries an adapter already"):
        load_pair(train(), train())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bias": "all"}, "bias=all"),
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
    ],
)
def test_a_loaded_model_whose_base_is_gone_needs_a_second_one(
    one: Loaded, settings: dict[str, Any], told: str
) -> None:
    lora = LoraConfig(**{"r": 2, "target_modules": TEXT, **settings})
    model = get_peft_model(tiny.load_model(one.folders.base), lora).base_model.model
    with pytest.raises(UsageError, match=f"carries an adapter with {told}, which changed weights"):
        make_pair(model)
    assert not make_pair(model, one.base).adapted


def test_the_proof_sees_every_weight(one: Loaded, train: Callable[..., Path]) -> None:
    """Also one that no text runs through."""
    folder = train()
    model = tiny.load_model(one.folders.base)
    weight = model.model.visual.merger.mlp[0].weight
    put = PeftModel.__init__

    def and_write(*arguments: Any, **more: Any) -> None:
        put(*arguments, **more)
        with torch.no_grad():
            weight[0, 0] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PeftModel, "__init__", and_write)
        assert add_adapter(model, folder) is False
    assert add_adapter(tiny.load_model(one.folders.base), folder) is True


def test_the_proof_sees_what_is_not_switched_off(
    one: Loaded, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_core.pair.lora.without_adapter", lambda model: nullcontext())
    assert add_adapter(tiny.load_model(one.folders.base), train()) is False


def test_the_revision_of_a_pair_is_its_files(one: Loaded, train: Callable[..., Path]) -> None:
    for form in ("dora", "bias_all"):
        adapter = train(**FORMS[form][0])
        pair = load_pair(adapter)
        assert pair.policy_revision == checkpoint_revision(adapter)
        assert pair.base_revision == checkpoint_revision(one.folders.base)
