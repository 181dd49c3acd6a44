"""What is loaded for a method, what an answer is known by, and that no old one is served."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loguru import logger
from peft import LoraConfig, get_peft_model

from replay_adapters.session.standin import load_models_for, provenance_of
from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import resolve
from replay_adapters.vlmevalkit.planned import plan
from replay_core import Pair
from replay_core.pair.identity import checkpoint_revision
from tests.replay_adapters.conftest import REPLAY
from tests.support import tiny

PIXELS = "min_pixels=3136,max_pixels=50176"


def loaded(**options: Any) -> tuple[Pair, dict[str, Any]]:
    steers = options.get("replay_method") not in ("none", "base")
    settings = resolve({**({"replay_layers": 3} if steers else {}), **options})
    pair = load_models_for(settings, check_checkpoints(settings), {"dtype": "float32"})
    return pair, provenance_of(pair, settings)


@pytest.fixture
def adapter(tiny_pairs: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of adapters whose base stood elsewhere when they were trained."""

    def make(**settings: Any) -> Path:
        moved = shutil.copytree(tiny_pairs["qwen2_5_vl"].base, tmp_path / "moved")
        lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = get_peft_model(tiny.load_model(moved), lora)
            for name, weight in model.named_parameters():
                if name.endswith("bias") and weight.requires_grad:
                    weight.data += 0.1
        model.save_pretrained(tmp_path / "adapter")
        shutil.rmtree(moved)
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize("method", ["replay", "inject", "none", "base"])
def test_each_method_knows_its_parts(tiny_pairs: Any, method: str) -> None:
    files = tiny_pairs["qwen2_5_vl"]
    policy, base = checkpoint_revision(files.policy), checkpoint_revision(files.base)
    given = {"pretrained": str(files.policy), "replay_base": str(files.base)}
    pair, identity = loaded(**given, replay_method=method)
    expected = {"none": (policy, policy), "base": (base, base)}.get(method, (policy, base))
    assert (identity["policy_revision"], identity["base_revision"]) == expected
    assert identity["processor_revision"] == policy
    assert (pair.policy_revision, pair.base_revision) == expected


@pytest.mark.parametrize(("bias", "together"), [("none", True), ("all", False)])
@pytest.mark.parametrize("method", ["replay", "none", "base"])
def test_an_adapter_is_put_onto_the_base_that_is_named(
    tiny_pairs: Any, adapter: Callable[..., Path], bias: str, together: bool, method: str
) -> None:
    files, lora = tiny_pairs["qwen2_5_vl"], adapter(bias=bias)
    base = checkpoint_revision(files.base)
    policy = checkpoint_revision(lora, onto=files.base)
    given = {"pretrained": str(lora), "replay_base": str(files.base), "replay_method": method}
    said: list[str] = []
    handle = logger.add(lambda line: said.append(str(line)), format="{message}")
    try:
        pair, identity = loaded(**given)
    finally:
        logger.remove(handle)
    expected = {"none": (policy, policy), "base": (base, base)}.get(method, (policy, base))
    assert (identity["policy_revision"], identity["base_revision"]) == expected
    assert identity["processor_revision"] == base
    assert pair.adapted is (method == "replay" and together)
    doubled = method == "replay" and not together
    assert any("is therefore loaded as a second model" in line for line in said) is doubled
    inputs = tiny.make_batch(tiny.load_processor(files.base), "one_image")
    with torch.no_grad():
        plain = tiny.load_model(files.base)(**inputs).logits
        answers = pair.policy.model(**inputs).logits
    assert torch.equal(answers, plain) is (method == "base")


def test_vlmevalkit_knows_an_adapter_by_its_base_too(
    tiny_pairs: Any, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_pairs["qwen2_5_vl"].base, tmp_path / "base")
    given = {"model_path": str(adapter()), "replay_base": str(base), "replay_method": "none"}
    first = plan(given).fingerprint
    shutil.copy(tiny_pairs["qwen2_5_vl"].policy / "model.safetensors", base)
    assert plan(given).fingerprint != first


def in_bin(source: Path, folder: Path) -> None:
    """Put weights into a folder in PyTorch's format, with one size and one time stamp for all."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    file = folder / "pytorch_model.bin"
    torch.save(tiny.load_model(source).state_dict(), file)
    os.utime(file, (1_700_000_000, 1_700_000_000))


def test_other_weights_behind_the_same_path_are_asked_anew(
    tiny_pairs: Any, tmp_path: Path, several_lmms_evals: Any
) -> None:
    """Neither lmms-eval's cache nor our journal answers for weights in another format's file."""
    files = tiny_pairs["qwen2_5_vl"]
    policy = shutil.copytree(files.policy, tmp_path / "policy")
    common = f"pretrained={policy},replay_base={files.base},{PIXELS},{REPLAY},dtype=float32"
    kept = ("--use_cache", str(tmp_path / "cache"))
    run = ("launcher", "qwen2_vl_replay", common, "replay_test_pictures")
    journaled = (*run[:2], f"{common},replay_journal={tmp_path / 'journal'}", run[3])
    in_bin(files.policy, policy)
    before = several_lmms_evals([(*run, *kept), journaled, (*run, *kept)])
    assert [ended.code for ended in before] == [0, 0, 0], before[0].output
    assert before[0].answers == before[1].answers == before[2].answers
    in_bin(tiny.make_pair(tmp_path / "other", "qwen2_5_vl", seed=5).policy, policy)
    fresh, cached, from_journal = several_lmms_evals([run, (*run, *kept), journaled])
    assert fresh.answers == cached.answers == from_journal.answers != before[0].answers
    revisions = {ended.results["replay"]["policy_revision"] for ended in (fresh, before[0])}
    assert len(revisions) == 2
