"""What makes two checkpoints a pair, and what refuses them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from replay_core import UsageError, load_pair, make_pair
from replay_core.model.vision import visual_features
from replay_core.pair.identity import folder_digest
from replay_core.pair.pair import check_configs, frozen
from tests.replay_core.helpers import Loaded, counted, doubled_logits, state_of
from tests.support import tiny


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"hidden_size": 96}, r"hidden size differs \(64 and 96; it must be equal\)"),
        ({"num_hidden_layers": 4}, r"number of layers differs \(5 and 4; it must be equal\)"),
        ({"vocab_size": 400}, r"vocabulary size differs \(384 and 400; it must be equal\)"),
    ],
)
def test_another_size_is_refused_with_both_values(
    one: Loaded, tmp_path: Path, size: dict[str, int], message: str
) -> None:
    other = tiny.make_checkpoint(tmp_path, "qwen2_5_vl", seed=0, **size)
    with pytest.raises(UsageError, match=message) as caught:
        load_pair(one.folders.policy, other)
    assert f"policy {one.folders.policy} and base {other} are not a pair" in str(caught.value)


def test_another_architecture_is_refused_with_both_values(load: Any) -> None:
    ours, theirs = load("qwen2_vl"), load("qwen2_5_vl")
    text = r"policy a and base b .* architecture differs \(qwen2_vl and qwen2_5_vl"
    with pytest.raises(UsageError, match=text):
        check_configs(ours.policy.config, theirs.policy.config, "a", "b")
    with pytest.raises(UsageError, match="architecture differs"):
        make_pair(ours.policy, theirs.policy)


def test_configs_are_compared_before_any_weight_is_read(one: Loaded, tmp_path: Path) -> None:
    other = tiny.make_checkpoint(tmp_path, "qwen2_5_vl", seed=0, vocab_size=400)
    (other / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="vocabulary size"):
        load_pair(one.folders.policy, other)


def test_a_folder_that_is_no_checkpoint_is_refused(one: Loaded, tmp_path: Path) -> None:
    for policy, base in ((tmp_path / "no", one.folders.base), (one.folders.policy, tmp_path)):
        with pytest.raises(UsageError, match="is not a checkpoint that transformers can load"):
            load_pair(policy, base)


def test_a_model_whose_lens_would_misread_it_is_no_part_of_a_pair(one: Loaded) -> None:
    for model in (one.policy, one.base):
        with doubled_logits(model), pytest.raises(UsageError, match="the logit lens"):
            make_pair(one.policy, one.base)


def test_making_a_pair_changes_nothing(loaded: Loaded) -> None:
    before = state_of(loaded.policy, loaded.base)
    pair = make_pair(loaded.policy, loaded.base, name="ours")
    assert state_of(loaded.policy, loaded.base) == before
    assert (pair.policy.model, pair.base.model) == (loaded.policy, loaded.base)
    assert pair.name == "ours"
    assert make_pair(loaded.policy, loaded.base).name == str(loaded.folders.policy)


def test_a_loaded_pair_is_in_eval_mode_and_the_right_way_round(one: Loaded) -> None:
    assert not one.policy.training
    assert not one.base.training
    assert one.policy.name_or_path == str(one.folders.policy)
    assert one.base.name_or_path == str(one.folders.base)
    assert one.pair.policy_revision == f"sha256:{folder_digest(one.folders.policy)}"
    assert one.pair.base_revision == f"sha256:{folder_digest(one.folders.base)}"


def test_dtype_and_attention_are_passed_on(one: Loaded) -> None:
    how = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    pair = load_pair(one.folders.policy, one.folders.base, **how)
    for anatomy in (pair.policy, pair.base):
        assert anatomy.model.dtype == torch.bfloat16
        assert anatomy.model.config.get_text_config()._attn_implementation == "eager"


def with_vision_of(base: PreTrainedModel, policy: PreTrainedModel) -> PreTrainedModel:
    model = deepcopy(base)
    model.model.visual.load_state_dict(policy.model.visual.state_dict())
    return model


def test_vision_is_shared_where_every_weight_of_the_tower_is_equal(loaded: Loaded) -> None:
    assert not loaded.pair.shared_vision
    equal = with_vision_of(loaded.base, loaded.policy)
    assert make_pair(loaded.policy, equal).shared_vision
    with torch.no_grad():
        equal.model.visual.merger.mlp[-1].bias[3] += 1e-3
    assert not make_pair(loaded.policy, equal).shared_vision


def test_a_self_pair_shares_its_vision(one: Loaded) -> None:
    assert make_pair(one.policy, one.policy).shared_vision


def test_the_base_runs_its_own_tower_unless_it_is_the_policys(one: Loaded) -> None:
    inputs = one.batch("one_image")
    seen = visual_features(one.policy, inputs)
    for base, runs in ((one.base, 1), (with_vision_of(one.base, one.policy), 0)):
        with counted(tower=base.model.visual) as calls:
            theirs, features = make_pair(one.policy, base).seen_by_base(inputs, seen)
        assert len(calls["tower"]) == runs
        assert features is not None
        assert torch.equal(features.flat, visual_features(base, inputs).flat)
        assert torch.equal(features.flat, seen.flat) == (not runs)
        assert theirs.keys() == inputs.keys()
    assert one.pair.seen_by_base(one.singles("mixed")[1], None)[1] is None


def test_base_layers_trims_the_base_only(one: Loaded) -> None:
    pair = load_pair(one.folders.policy, one.folders.base, base_layers=3)
    assert (len(pair.policy.layers), len(pair.base.layers)) == (5, 3)
    weights, whole = pair.base.layers[2].state_dict(), one.pair.base.layers[2].state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.items())
    assert pair.base_revision == one.pair.base_revision


def test_frozen_gives_back_mixed_states_also_after_an_exception(one: Loaded) -> None:
    model = deepcopy(one.policy)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    model.train()
    model.model.visual.eval()
    before = state_of(model)
    with frozen(model, model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert state_of(model) == before
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert state_of(model) == before
