"""What one base pass leaves, against the oracle, and its file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributions import Categorical

from replay_core import ReplayTargets, Steered, UsageError, make_pair
from replay_core.lens import arithmetic
from replay_core.targets import prompt_of, settings_of
from tests.replay_core.helpers import Loaded, masks_of, owner_of, stable
from tests.support import oracle


def oracle_targets(loaded: Loaded, inputs: Any, config: Any, **more: Any) -> oracle.Targets:
    return oracle.oracle_targets(
        loaded.base,
        inputs,
        layers=config.layers,
        threshold=config.threshold,
        boundary=config.boundary,
        candidates=config.positions,
        **more,
    )


@pytest.mark.parametrize("select", ["low", "high", "all"])
@pytest.mark.parametrize("positions", ["visual", "input"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_masks_and_entropies_are_the_oracles(
    loaded: Loaded, boundary: str, positions: str, select: Any
) -> None:
    inputs = loaded.batch("mixed")
    config = stable(boundary, positions=positions, select=select)
    targets = Steered(loaded.pair, config).targets(inputs)
    owner = owner_of(inputs, positions)
    masks = masks_of(targets, owner)
    for row in (0, 2):
        expected = oracle_targets(loaded, loaded.singles("mixed")[row], config, select=select)
        for layer in config.layers:
            entropies = targets.entropies[layer][owner == row]
            torch.testing.assert_close(entropies, expected.entropies[layer], rtol=1e-4, atol=1e-5)
            assert torch.equal(masks[row][layer], expected.masks[layer])


@pytest.mark.parametrize("top_k", [2, 50, "full"])
def test_distributions_are_those_of_the_bases_lens(loaded: Loaded, top_k: Any) -> None:
    inputs = loaded.batch("two_images")
    config = stable(top_k=top_k)
    targets = Steered(loaded.pair, config).targets(inputs)
    expected = oracle_targets(loaded, inputs, config)
    for layer, target in targets.layers.items():
        logits = expected.logits[layer][target.index]
        if top_k == "full":
            assert target.ids is None
        else:
            assert torch.equal(target.ids.sort().values, logits.topk(top_k).indices.sort().values)
            logits = logits.gather(1, target.ids)
        torch.testing.assert_close(
            target.log_probs, Categorical(logits=logits).logits, rtol=1e-4, atol=1e-4
        )


def test_a_support_larger_than_the_vocabulary_is_the_vocabulary(one: Loaded) -> None:
    targets = Steered(one.pair, stable(top_k=10_000)).targets(one.batch("one_image"))
    assert targets.layers[0].ids.shape[1] == 384


@pytest.mark.parametrize(
    ("boundary", "dtype"), [("aligned", torch.float32), ("reference", torch.bfloat16)]
)
def test_a_bfloat16_base_is_read_in_the_arithmetic_of_the_boundary(
    one16: Loaded, boundary: str, dtype: torch.dtype
) -> None:
    config = stable(boundary)
    targets = Steered(one16.pair, config).targets(one16.batch("one_image"))
    assert arithmetic(config, torch.bfloat16) == dtype
    assert targets.entropies[0].dtype == targets.layers[0].log_probs.dtype == dtype
    expected = oracle_targets(one16, one16.batch("one_image"), config)
    torch.testing.assert_close(targets.entropies[0], expected.entropies[0], rtol=2e-2, atol=2e-2)


def test_random_takes_as_many_as_low_and_others(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    owner = owner_of(inputs)
    low, drawn, again, other = (
        masks_of(Steered(loaded.pair, stable(select=how, seed=seed)).targets(inputs), owner)
        for how, seed in (("low", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    flat = [
        torch.cat([mask for sample in masks for mask in sample.values()])
        for masks in (low, drawn, again, other)
    ]
    for row in (0, 2):
        for layer, mask in low[row].items():
            assert drawn[row][layer].sum() == mask.sum()
    assert not torch.equal(flat[0], flat[1])
    assert torch.equal(flat[1], flat[2])
    assert not torch.equal(flat[1], flat[3])


def test_random_depends_on_the_prompt_and_not_on_its_batch(loaded: Loaded) -> None:
    steered = Steered(loaded.pair, stable(select="random"))
    inputs = loaded.batch("mixed", "right")
    together = masks_of(steered.targets(inputs), owner_of(inputs))
    for row in (0, 2):
        single = loaded.singles("mixed")[row]
        (alone,) = masks_of(steered.targets(single), owner_of(single))
        for layer, mask in alone.items():
            assert torch.equal(together[row][layer], mask)


def test_given_seeds_draw_the_positions(one: Loaded) -> None:
    inputs = one.batch("mixed")
    steered = Steered(one.pair, stable(select="random"))
    own = steered.targets(inputs)
    same = steered.targets(inputs, seeds=steered.seeds(inputs))
    other = steered.targets(inputs, seeds=[1, 2, 3])
    assert torch.equal(own.layers[0].index, same.layers[0].index)
    assert not torch.equal(own.layers[0].index, other.layers[0].index)


@pytest.mark.parametrize(("boundary", "top_k"), [("aligned", 50), ("reference", "full")])
def test_saved_targets_replay_without_the_base(
    either: Loaded, boundary: str, top_k: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = either.batch("mixed")
    steered = Steered(either.pair, stable(boundary, top_k=top_k, steps=3))
    expected = steered.optimise(inputs)
    steered.targets(inputs).save(tmp_path / "targets.safetensors")

    def absent(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the base ran")

    monkeypatch.setattr(either.base, "forward", absent)
    monkeypatch.setattr(either.base.model.visual, "forward", absent)
    with pytest.raises(AssertionError, match="the base ran"):
        steered.optimise(inputs)
    targets = ReplayTargets.load(str(tmp_path / "targets.safetensors"))
    actual = steered.optimise(inputs, targets=targets)
    assert torch.equal(actual.delta, expected.delta)
    assert actual.delta.any()
    assert actual.samples == expected.samples


def test_targets_of_other_prompts_are_refused(one: Loaded) -> None:
    steered = Steered(one.pair, stable(steps=0))
    targets = steered.targets(one.batch("one_image"))
    with pytest.raises(UsageError, match="were made for other prompts"):
        steered.optimise(one.batch("two_images"), targets=targets)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.5},
        {"layers": [0, 1]},
        {"select": "high"},
        {"top_k": 20},
        {"positions": "input"},
        {"boundary": "reference"},
        {"seed": 1},
    ],
)
def test_targets_of_other_settings_are_refused(one: Loaded, change: dict[str, Any]) -> None:
    inputs = one.batch("one_image")
    targets = Steered(one.pair, stable(steps=0)).targets(inputs)
    other = Steered(one.pair, stable(**{"steps": 0, **change}))
    with pytest.raises(UsageError) as caught:
        other.optimise(inputs, targets=targets)
    base = f"{one.pair.base_revision} in torch.float32"
    made, asked = (settings_of(s, s.layer_indices(5), base) for s in (stable(), other.config))
    assert made != asked
    assert str(caught.value) == f"these targets were made with {made}; this run asks for {asked}"


def test_targets_serve_any_step_size_and_number_of_steps(one: Loaded) -> None:
    inputs = one.batch("one_image")
    targets = Steered(one.pair, stable(steps=0)).targets(inputs)
    for side in ("left", "right"):
        other = Steered(one.pair, stable(steps=1, step_size=1, keep="best", strict=True))
        assert other.optimise(one.batch("one_image", side), targets=targets).delta.any()


def test_settings_name_the_layers_themselves() -> None:
    config = stable()
    assert json.loads(settings_of(config, [0, 1], "b"))["layers"] == [0, 1]


def test_targets_of_another_base_are_refused(one: Loaded) -> None:
    inputs = one.batch("one_image")
    targets = Steered(one.pair, stable(steps=0)).targets(inputs)
    swapped = make_pair(one.base, one.policy)
    with pytest.raises(UsageError, match="these targets were made with"):
        Steered(swapped, stable(steps=0)).optimise(inputs, targets=targets)


def test_a_prompt_is_the_same_on_either_side(one: Loaded) -> None:
    prompts = {
        prompt_of(batch["input_ids"], batch["attention_mask"])
        for batch in (one.batch("mixed", "left"), one.batch("mixed", "right"))
    }
    assert len(prompts) == 1
    other = one.batch("two_images")
    assert prompt_of(other["input_ids"], other["attention_mask"]) not in prompts


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="holds 'no replay targets', not 'activation-replay targ"):
        ReplayTargets.load(path)
    save_file({"w": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"weights.safetensors holds 'pt', not"):
        ReplayTargets.load(path)


def test_a_file_of_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no tensors here, only words")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        ReplayTargets.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.safetensors"):
        ReplayTargets.load(tmp_path / "absent.safetensors")


def test_text_has_no_targets(one: Loaded) -> None:
    with pytest.raises(ValueError, match="these prompts have no visual tokens"):
        Steered(one.pair, stable()).targets(one.singles("mixed")[1])


def test_a_layer_with_an_empty_mask_is_left_out(one: Loaded) -> None:
    targets = Steered(one.pair, stable(threshold=1e-6)).targets(one.batch("one_image"))
    assert targets.layers == {}
    assert targets.entropies.keys() == {0, 1, 2}
