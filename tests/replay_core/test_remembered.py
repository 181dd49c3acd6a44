"""What a store spares: the base's pass, its weights, the descent; and that nothing else changes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from replay_core import Pair, ReplayConfig, Steered, UsageError, load_pair, make_pair
from replay_core.answer import answer
from replay_core.store import Store
from tests.replay_core.helpers import Loaded, counted, from_nowhere, outcomes, stable
from tests.support import tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def stored(one: Loaded, store: Store) -> Pair:
    return replace(one.pair, store=store)


@pytest.fixture
def calls(one: Loaded) -> Iterator[dict[str, list[int]]]:
    """Calls of the base's first layer, its vision tower and the policy's first layer."""
    with counted(
        base=one.pair.base.layers[0],
        tower=one.base.model.visual,
        policy=one.pair.policy.layers[0],
    ) as seen:
        yield seen


def same(actual: Any, expected: Any) -> bool:
    return torch.equal(actual.delta, expected.delta) and actual.samples == expected.samples


# Tokens of the short text on which a policy's gradients are checked when it is steered.
CHECKED = 8
GRID = [
    {"threshold": gamma, "step_size": alpha} for gamma in (0.3, 0.5, 0.7) for alpha in (0.01, 0.05)
]
OTHERS = [
    {"select": "high"},
    {"select": "all"},
    {"select": "random"},
    {"select": "matched_high"},
    {"maximum": "image"},
    {"thresholds": {0: 4.0, 1: 4.0, 2: 4.0}},
    {"step_scaling": "tokens", "step_size": 1e-4},
    {"keep": "best"},
    {"optimizer": "lbfgs"},
    {"tolerance": 0.5},
    {"x": "random"},
]


@pytest.mark.parametrize("top_k", [5, "full"])
def test_a_grid_asks_the_base_once_and_finds_the_same(
    one: Loaded, stored: Pair, calls: dict[str, list[int]], top_k: Any
) -> None:
    inputs = one.batch("mixed")
    configs = [stable(steps=2, top_k=top_k, **changes) for changes in [*GRID, *OTHERS]]
    plain = [Steered(one.pair, config).optimise(inputs) for config in configs]
    assert len(calls["base"]) == 2 * len(configs)  # what stands before the pictures, and the rest
    cells = plain[: len(GRID)]
    assert len({tuple(result.delta.flatten().tolist()) for result in cells}) == len(GRID)
    for seen in calls.values():
        seen.clear()
    found = [Steered(stored, config).optimise(inputs) for config in configs]
    assert len(calls["base"]) == 2
    assert len(calls["tower"]) == 1
    assert all(map(same, found, plain))
    assert [result.stored for result in found] == [None, *["targets"] * (len(configs) - 1)]


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 6}, {"positions": "input"}, {"layers": 2}, {"boundary": "reference"}],
    ids=str,
)
def test_what_changes_the_reading_asks_the_base_again(
    one16: Loaded, store: Store, changes: dict[str, Any]
) -> None:
    inputs, pair = one16.batch("one_image"), replace(one16.pair, store=store)
    first = stable(steps=1, top_k=5)
    Steered(pair, first).optimise(inputs)
    assert Steered(pair, first).optimise(inputs).stored == "x"
    assert Steered(pair, first.changed(**changes)).optimise(inputs).stored is None


@pytest.mark.parametrize("what", ["pixel", "token", "beside"])
def test_other_prompts_are_not_taken_for_these(one: Loaded, stored: Pair, what: str) -> None:
    steered = Steered(stored, stable(steps=1))
    inputs = dict(one.batch("mixed"))
    steered.optimise(inputs)
    other = {name: value.clone() for name, value in inputs.items()}
    if what == "pixel":
        other["pixel_values"][0, 0] += 0.5
    elif what == "token":
        other["input_ids"][0, -1] += 1
    else:
        other = dict(one.singles("mixed")[0])
    found = steered.optimise(other)
    assert found.stored is None
    assert same(found, Steered(one.pair, steered.config).optimise(other))


def test_padding_on_the_other_side_is_the_same_batch(one: Loaded, stored: Pair) -> None:
    steered = Steered(stored, stable(steps=1))
    steered.optimise(one.batch("mixed", "right"))
    assert steered.optimise(one.batch("mixed", "left")).stored == "x"


def test_another_policy_of_the_same_base_finds_its_reading(
    one: Loaded, stored: Pair, calls: dict[str, list[int]]
) -> None:
    inputs, config = one.batch("mixed"), stable(steps=2)
    Steered(stored, config).optimise(inputs)
    other = replace(stored, policy=one.pair.base, policy_revision=one.pair.base_revision)
    calls["base"].clear()
    found = Steered(other, config).optimise(inputs)
    assert found.stored == "targets"
    assert outcomes(found)[0] == "no_drift"  # it is the base itself, and not taken for the policy
    swapped = replace(one.swapped(), base_revision=one.pair.policy_revision, store=stored.store)
    assert Steered(swapped, config).optimise(inputs).stored is None


def test_x_is_found_once_for_answers_of_several_runs(
    one: Loaded, stored: Pair, calls: dict[str, list[int]]
) -> None:
    inputs = one.batch("mixed")
    sampled = {"max_new_tokens": 5, "do_sample": True}

    def run(pair: Pair, seed: int) -> tuple[Any, list[int]]:
        calls["policy"].clear()
        calls["base"].clear()
        steered = Steered(pair, stable(steps=3, seed=seed))
        answers = answer(steered, inputs, sampled)
        return answers, calls["base"] + [n for n in calls["policy"] if n > CHECKED]

    plain = [run(one.pair, seed)[0] for seed in (0, 1)]
    (first, _), (second, prompts) = (run(stored, seed) for seed in (0, 1))
    assert len(prompts) == 1  # the prompt is read for the answers alone, by the policy
    assert [record.stored for record in second.records] == ["x"] * 3
    assert not torch.equal(first.ids, second.ids)
    for found, expected in zip((first, second), plain, strict=True):
        assert torch.equal(found.ids, expected.ids)
        for ours, theirs in zip(found.records, expected.records, strict=True):
            assert ours.loss_after == theirs.loss_after
            assert ours.masked_fraction == theirs.masked_fraction


@pytest.mark.parametrize("changes", [{"select": "random"}, {"x": "random"}])
def test_a_seed_that_draws_positions_or_noise_is_another_x(
    one: Loaded, stored: Pair, changes: dict[str, Any]
) -> None:
    inputs = one.batch("one_image")
    config = stable(steps=1, **changes)
    first, again = (Steered(stored, config).optimise(inputs, seeds=[5]) for _ in range(2))
    assert again.stored == "x"
    assert same(again, first)
    other = Steered(stored, config).optimise(inputs, seeds=[6])
    assert other.stored == "targets"
    assert same(other, Steered(one.pair, config).optimise(inputs, seeds=[6]))


def test_given_targets_and_kept_x_are_not_taken_for_the_usual_ones(
    one: Loaded, stored: Pair
) -> None:
    inputs = one.batch("one_image")
    steered = Steered(stored, stable(steps=2))
    first = steered.optimise(inputs)
    kept = [torch.full_like(first.delta[:2], 0.01)]
    held = steered.optimise(inputs, kept=kept)
    assert torch.equal(held.delta[:2], kept[0])
    other = {**inputs, "pixel_values": -inputs["pixel_values"]}
    lent = steered.optimise(inputs, targets=steered.targets(other))
    assert not torch.equal(lent.delta, first.delta)
    assert same(steered.optimise(inputs), first)


def test_strict_hears_of_a_stored_failure(one: Loaded, stored: Pair) -> None:
    inputs, config = one.batch("one_image"), stable(step_size=1e6, steps=3)
    assert outcomes(Steered(stored, config).optimise(inputs)) == ["diverged"]
    with pytest.raises(RuntimeError, match="diverged"):
        Steered(stored, config.changed(strict=True)).optimise(inputs)


def test_a_damaged_store_changes_no_answer(one: Loaded, stored: Pair) -> None:
    inputs, config = one.batch("mixed"), stable(steps=2)
    expected = Steered(stored, config).optimise(inputs)
    for path in stored.store.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="computed again") as warned:
        found = Steered(stored, config).optimise(inputs)
    assert len(warned) == 2
    assert found.stored is None
    assert same(found, expected)
    assert Steered(stored, config).optimise(inputs).stored == "x"


def test_models_from_nowhere_are_refused(one: Loaded, store: Store) -> None:
    pair = replace(make_pair(from_nowhere(one), one.base), store=store)
    with pytest.raises(UsageError, match="was not loaded from a checkpoint"):
        Steered(pair, stable())


Defer = Callable[..., Pair]


@pytest.fixture
def deferred(one: Loaded, store: Store) -> Defer:
    def load(**how: Any) -> Pair:
        return load_pair(one.folders.policy, one.folders.base, store=store, **how)

    return load


def test_the_base_is_loaded_when_it_is_asked_and_only_then(one: Loaded, deferred: Defer) -> None:
    inputs, config = one.batch("mixed"), stable(steps=2)
    expected = Steered(one.pair, config).optimise(inputs)
    first, second = deferred(), deferred(base_layers=3)
    found = Steered(first, config).optimise(inputs)
    assert first.base.loaded
    assert same(found, expected)
    for changes, how in (
        ({}, "x"),
        ({"threshold": 0.6}, "targets"),
        ({"step_size": 0.02}, "targets"),
    ):
        steered = Steered(second, config.changed(**changes))
        found = steered.optimise(inputs)
        assert found.stored == how
        assert same(found, Steered(one.pair, steered.config).optimise(inputs))
        answer(steered, inputs, {"max_new_tokens": 2})
    assert not second.base.loaded
    assert repr(second.base) == f"DeferredAnatomy({one.folders.base})"
    assert not second.base.loaded
    assert Steered(second, config).optimise(one.batch("two_images")).stored is None
    assert second.base.loaded
    assert len(second.base.layers) == second.base.depth == 3


def test_the_store_holds_the_same_for_a_deferred_base_and_a_loaded_one(
    one: Loaded, deferred: Defer
) -> None:
    later, now = deferred(), one.pair.base
    known = (later.base.name, later.base.depth, later.base.dtype, later.base.manner)
    assert known == (now.name, now.depth, now.dtype, now.manner)
    assert not later.base.loaded
    assert later.sees_alike == one.pair.shared_vision
    assert later.base.loaded


def test_a_deferred_base_is_checked_as_any(one: Loaded, tmp_path: Path, store: Store) -> None:
    folders = tiny.make_pair(tmp_path / "pair", "qwen2_5_vl")
    shallow = load_pair(folders.policy, folders.base, base_layers=1, store=store)
    with pytest.raises(UsageError, match="base_layers=1"):
        Steered(shallow, stable())
    weights = Path(folders.base) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    pair = load_pair(folders.policy, folders.base, store=store)
    with pytest.raises(UsageError, match="is cut or damaged"):
        Steered(pair, stable()).optimise(one.batch("one_image"))


def test_an_adapters_base_is_read_without_the_adapter(
    one: Loaded, tmp_path: Path, store: Store
) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_peft_model(tiny.load_model(one.folders.base), lora).save_pretrained(tmp_path / "lora")
    inputs = one.batch("mixed")
    plain = load_pair(tmp_path / "lora", one.folders.base)
    pair = load_pair(tmp_path / "lora", one.folders.base, store=store)
    assert pair.adapted
    for config in (stable(steps=2), stable(steps=2, threshold=0.6), stable(steps=2, top_k="full")):
        expected = Steered(plain, config).optimise(inputs)
        assert expected.delta.any()
        first, again = (Steered(pair, config).optimise(inputs) for _ in range(2))
        assert same(first, expected)
        assert same(again, expected)


def test_settings_that_change_no_x_are_not_in_its_key(one: Loaded, stored: Pair) -> None:
    inputs = one.batch("one_image")
    Steered(stored, stable(steps=1, seed=1)).optimise(inputs)
    for changes in ({"seed": 2}, {"strict": True}):
        config: ReplayConfig = stable(steps=1, seed=1).changed(**changes)
        assert Steered(stored, config).optimise(inputs).stored == "x"
