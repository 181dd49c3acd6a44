"""The descent: against the oracle on tiny pairs, and against closed forms on a toy problem."""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from replay_core import ReplayConfig, Steered, make_pair
from replay_core.answer import records_of
from replay_core.descent import descend, describe
from replay_core.errors import ReplayError
from replay_core.model.call import DecoderCall
from replay_core.outcome import SampleReplay
from replay_core.problem import ROUNDING_FLOOR
from replay_core.selection import low_mask
from replay_core.targets import LayerTarget
from tests.replay_core.helpers import (
    Loaded,
    Toy,
    gap,
    greedy,
    hooked,
    judge,
    masks_of,
    outcomes,
    owner_of,
    rows_of,
    run,
    stable,
    told,
    toy,
)
from tests.support import oracle, tiny

CLOSE = 1e-4  # of the norm: float32, 25 steps in a stable regime


def assert_judged(loaded: Loaded, name: str, config: ReplayConfig, side: Any = "left") -> None:
    """Assert that every row with an image replays as the oracle says."""
    inputs, singles = loaded.batch(name, side), loaded.singles(name)
    result = run(loaded, inputs, config)
    xs = rows_of(result)
    masks: list[Any] = [None] * len(singles)
    if config.select == "random":
        targets = Steered(loaded.pair, config).targets(inputs)
        left = loaded.batch(name, "left")
        masks = masks_of(targets, owner_of(left, config.positions))
    for row, single in enumerate(singles):
        if not result.samples[row].visual_tokens:
            assert outcomes(result)[row] == "no_visual_tokens"
            continue
        expected = judge(loaded, single, config, masks[row])
        assert outcomes(result)[row] == "applied"
        assert result.samples[row].losses == pytest.approx(expected.losses, rel=CLOSE)
        assert gap(xs[row], expected.delta) < CLOSE
        if config.steps == 1:
            assert gap(xs[row] / -config.step_size, expected.first_gradient) < CLOSE


# --- against the oracle -------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [50, "full"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_25_steps_are_the_oracles(loaded: Loaded, boundary: str, top_k: Any) -> None:
    # One image and two images in one prompt, each alone and as a row of a padded batch.
    config = stable(boundary, top_k=top_k)
    assert config.steps == 25
    together = run(loaded, loaded.batch("mixed", "left" if top_k == 50 else "right"), config)
    for row in (0, 2):
        single = loaded.singles("mixed")[row]
        expected = judge(loaded, single, config)
        found = [(together.samples[row], rows_of(together)[row])]
        if top_k == 50:
            alone = run(loaded, single, config)
            found.append((alone.samples[0], alone.delta))
        for sample, x in found:
            assert sample.outcome == "applied"
            assert sample.losses == pytest.approx(expected.losses, rel=CLOSE)
            assert gap(x, expected.delta) < CLOSE


@pytest.mark.parametrize("name", ["two_images", "mixed", "video"])
@pytest.mark.parametrize("top_k", [50, "full"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_the_first_step_is_minus_alpha_times_the_oracles_gradient(
    loaded: Loaded, boundary: str, top_k: Any, name: str
) -> None:
    assert_judged(loaded, name, stable(boundary, top_k=top_k, steps=1), "right")


@pytest.mark.parametrize("select", ["high", "all", "random"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_every_selection_is_the_oracles(loaded: Loaded, boundary: str, select: Any) -> None:
    assert_judged(loaded, "mixed", stable(boundary, select=select, steps=2))


@pytest.mark.parametrize("name", ["two_images", "mixed"])
@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_the_whole_prompt_as_candidates_is_the_oracles(
    loaded: Loaded, boundary: str, name: str
) -> None:
    assert_judged(loaded, name, stable(boundary, positions="input", steps=2), "right")


@pytest.mark.parametrize("layers", [(1, 3), (4,), (0,)])
def test_any_layers_are_the_oracles(loaded: Loaded, layers: tuple[int, ...]) -> None:
    # The last layer, 4, is normed once; layer 0 alone needs only one layer to run.
    assert_judged(loaded, "two_images", stable(layers=layers, steps=3))


@pytest.mark.parametrize("layers", [(0,), (0, 3)])
def test_reference_at_layer_zero_reads_the_embeddings(
    loaded: Loaded, layers: tuple[int, ...]
) -> None:
    assert_judged(loaded, "two_images", stable("reference", layers=layers, steps=3))


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_padding_side_changes_nothing(loaded: Loaded, boundary: str) -> None:
    config = stable(boundary, steps=2)
    left, right = (run(loaded, loaded.batch("mixed", side), config) for side in ("left", "right"))
    assert left.delta.any()
    assert torch.equal(left.delta, right.delta)
    assert left.samples == right.samples


def test_swapping_base_and_policy_changes_x(either: Loaded) -> None:
    inputs = either.batch("one_image")
    there = run(either, inputs, stable(steps=2))
    back = run(either.swapped(), inputs, stable(steps=2))
    assert there.samples[0].losses[0] != pytest.approx(back.samples[0].losses[0], rel=1e-3)
    assert gap(there.delta, back.delta) > 0.1


def test_bfloat16_follows_the_float32_oracle(load: Any, family: str) -> None:
    half, full = load(family, torch.bfloat16), load(family)
    config = stable(steps=12)
    result = run(half, half.batch("one_image"), config)
    expected = judge(full, full.batch("one_image"), config)
    (sample,) = result.samples
    assert sample.outcome == "applied"
    assert result.delta.dtype == torch.float32
    assert sample.losses[-1] < 0.8 * sample.losses[0]
    assert sample.losses[0] == pytest.approx(expected.losses[0], rel=0.1)
    assert gap(result.delta, expected.delta) < 0.5


def test_the_loop_sees_the_very_input_that_the_answer_gets(loaded16: Loaded) -> None:
    seen: list[Tensor] = []
    hook = loaded16.pair.policy.layers[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach())
    )
    with hooked([hook]):
        result = run(loaded16, loaded16.batch("one_image"), stable(steps=3))
    answered = torch.cat(tuple(result.features.plus(result.delta)["image"].pooler_output))
    assert torch.equal(seen[-1][0], answered)
    assert not torch.equal(seen[-1], seen[-2])


def test_reference_keeps_x_in_the_models_dtype(loaded16: Loaded) -> None:
    result = run(loaded16, loaded16.batch("one_image"), stable("reference", steps=5))
    assert result.delta.dtype == torch.bfloat16
    assert outcomes(result) == ["applied"]
    assert result.samples[0].losses[-1] < result.samples[0].losses[0]


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["low", "random"])
def test_a_row_of_a_batch_is_as_if_alone(loaded: Loaded, select: Any) -> None:
    config = stable(select=select, steps=4)
    together = rows_of(run(loaded, loaded.batch("mixed"), config))
    for row in (0, 2):
        alone = run(loaded, loaded.singles("mixed")[row], config)
        assert gap(together[row], alone.delta) < CLOSE


def test_the_order_of_rows_changes_nothing_else(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    order = [2, 1, 0]
    swapped = {k: v[order] for k, v in inputs.items() if len(v) == len(order) and v.dim() == 2}
    # Three images: one in row 0, two in row 2.
    grid = inputs["image_grid_thw"]
    first, rest = inputs["pixel_values"].split([int(grid[0].prod()), int(grid[1:].prod(1).sum())])
    swapped["pixel_values"] = torch.cat([rest, first])
    swapped["image_grid_thw"] = grid[[1, 2, 0]]
    config = stable(steps=5, select="random")
    there, back = run(loaded, inputs, config), run(loaded, swapped, config)
    assert outcomes(back) == outcomes(there)[::-1]
    for row in (0, 2):
        assert gap(rows_of(back)[2 - row], rows_of(there)[row]) < CLOSE


def test_the_same_run_twice_gives_the_same_x(either: Loaded) -> None:
    first, second = (
        run(either, either.batch("mixed"), stable(select="random", steps=2)) for _ in range(2)
    )
    assert first.delta.any()
    assert torch.equal(first.delta, second.delta)
    assert first.samples == second.samples


def test_random_draws_follow_the_seed(one: Loaded) -> None:
    inputs = one.batch("one_image")
    first, second = (run(one, inputs, stable(select="random", seed=n, steps=1)) for n in (0, 1))
    assert gap(first.delta, second.delta) > 1e-2


# --- outcomes -----------------------------------------------------------------------------------


def test_a_self_pair_has_no_drift(load: Any, either: Loaded, family: str) -> None:
    # Two models with equal weights, and one model twice.
    apart = load(family, either.policy.dtype, distance=0).pair
    for pair in (apart, make_pair(either.policy, either.policy)):
        result = run(pair, either.batch("mixed"), stable())
        assert outcomes(result) == ["no_drift", "no_visual_tokens", "no_drift"]
        assert not result.delta.any()
        for row in (0, 2):
            sample = result.samples[row]
            assert (sample.losses, sample.loss_after, sample.steps) == ((0.0,), 0.0, 0)


@pytest.mark.parametrize("top_k", [50, "full"])
def test_a_self_pair_over_the_whole_prompt_has_no_drift(either: Loaded, top_k: Any) -> None:
    pair = make_pair(either.policy, either.policy)
    result = run(pair, either.batch("one_image"), stable(positions="input", top_k=top_k))
    assert outcomes(result) == ["no_drift"]


def test_a_self_pair_drifts_in_reference(either: Loaded) -> None:
    pair = make_pair(either.policy, either.policy)
    result = run(pair, either.batch("one_image"), stable("reference", steps=2))
    assert result.samples[0].losses[0] > 0.1
    assert outcomes(result) == ["applied"]


def test_text_alone_has_no_visual_tokens(loaded: Loaded) -> None:
    result = run(loaded, loaded.singles("mixed")[1], stable())
    assert outcomes(result) == ["no_visual_tokens"]
    assert result.delta is None
    assert result.samples[0].loss_before is None


def test_a_tiny_threshold_leaves_an_empty_mask(either: Loaded) -> None:
    result = run(either, either.batch("mixed"), stable(threshold=1e-6))
    assert outcomes(result) == ["empty_mask", "no_visual_tokens", "empty_mask"]
    assert not result.delta.any()
    assert [sample.visual_tokens for sample in result.samples] == [12, 0, 23]
    assert dict(result.samples[0].masked_fraction) == {0: 0, 1: 0, 2: 0}
    assert result.samples[0].loss_before is None


def test_one_row_may_have_an_empty_mask(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    entropies = Steered(loaded.pair, stable(layers=[0])).targets(inputs).entropies[0]
    lowest = {
        row: float(mine.min() / mine.max())
        for row in (0, 2)
        for mine in [entropies[owner_of(inputs) == row]]
    }
    empty, full = sorted(lowest, key=lambda row: lowest[row], reverse=True)
    config = stable(layers=[0], threshold=sum(lowest.values()) / 2, steps=2)
    result = run(loaded, inputs, config)
    assert outcomes(result)[empty] == "empty_mask"
    assert outcomes(result)[full] == "applied"
    assert not rows_of(result)[empty].any()
    expected = judge(loaded, loaded.singles("mixed")[full], config)
    assert gap(rows_of(result)[full], expected.delta) < CLOSE


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_zero_steps_have_no_effect(either: Loaded, boundary: str) -> None:
    result = run(either, either.batch("one_image"), stable(boundary, steps=0))
    (sample,) = result.samples
    assert sample.outcome == "no_effect"
    assert sample.steps == 0
    assert sample.loss_after == sample.loss_before > 0
    assert not result.delta.any()


def test_a_step_that_rounding_swallows_has_no_effect(loaded16: Loaded) -> None:
    inputs = loaded16.batch("mixed")
    result = run(loaded16, inputs, stable(step_size=1e-7, steps=2))
    assert outcomes(result) == ["no_effect", "no_visual_tokens", "no_effect"]
    assert result.samples[0].changed_fraction == 0
    assert outcomes(run(loaded16, inputs, stable(steps=2)))[0] == "applied"


def test_an_unstable_descent_is_diverged_and_un_steered(loaded: Loaded) -> None:
    steered = Steered(loaded.pair, stable(step_size=3e5))
    inputs = loaded.batch("mixed")
    result = steered.optimise(inputs)
    assert outcomes(result) == ["diverged", "no_visual_tokens", "diverged"]
    assert not result.delta.any()
    assert result.samples[0].loss_after > result.samples[0].loss_before
    assert result.samples[0].changed_fraction == result.samples[0].delta_norm == 0
    answer = steered.decode(inputs, result, **greedy())
    assert torch.equal(answer, loaded.policy.generate(**inputs, **greedy()))


def test_reference_keeps_a_diverged_x(loaded: Loaded) -> None:
    inputs = loaded.batch("one_image")
    steered = Steered(loaded.pair, stable("reference", step_size=6e5, steps=3))
    result = steered.optimise(inputs)
    assert outcomes(result) == ["diverged"]
    assert result.samples[0].changed_fraction > 0.9
    steps = steered.decode(inputs, result, **told()).logits
    plain = loaded.policy.generate(**inputs, **told()).logits
    assert gap(steps[0], plain[0]) > 0.1


def test_the_best_iterate_of_an_unstable_descent_is_kept(loaded: Loaded) -> None:
    inputs = loaded.batch("one_image")
    config = stable(step_size=3e5, steps=6)
    last = run(loaded, inputs, config)
    best = run(loaded, inputs, config.model_copy(update={"keep": "best"}))
    assert last.samples[0].losses == best.samples[0].losses
    assert best.samples[0].loss_after == min(best.samples[0].losses)
    assert outcomes(last) == ["diverged"]
    assert outcomes(best) == ["no_effect"]  # here nothing beats x = 0


def test_best_and_last_are_one_while_the_loss_falls(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    last, best = (run(loaded, inputs, stable(keep=keep, steps=4)) for keep in ("last", "best"))
    assert torch.equal(last.delta, best.delta)
    assert last.samples == best.samples


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["lm_head.weight", "model.language_model.layers.1.mlp"])
def test_a_poisoned_policy_is_non_finite(loaded: Loaded, value: float, where: str) -> None:
    inputs = loaded.batch("one_image")
    policy = deepcopy(loaded.policy)
    with torch.no_grad():
        if where == "lm_head.weight":
            targets = Steered(loaded.pair, stable()).targets(inputs)
            policy.lm_head.weight[int(targets.layers[0].ids[0, 0])] = value
        else:
            policy.model.language_model.layers[1].mlp.down_proj.weight[3, 5] = value
    poisoned = replace(
        loaded.pair,
        policy=replace(
            loaded.pair.policy,
            model=policy,
            decoder=policy.get_decoder(),
            norm=policy.get_decoder().norm,
            head=policy.lm_head,
        ),
    )
    result = run(poisoned, inputs, stable(steps=2))
    assert outcomes(result) == ["non_finite"]
    assert not result.delta.any()
    (record,) = records_of(Steered(poisoned, stable()), result)
    assert record.loss_before is None


@pytest.mark.parametrize("layers", [(1, 2), (0, 1, 2)])
def test_a_poisoned_base_is_non_finite_too(loaded: Loaded, layers: tuple[int, ...]) -> None:
    # An entropy that is not a number is below no threshold; it is not a high one either.
    base = deepcopy(loaded.base)
    with torch.no_grad():
        base.model.language_model.layers[1].mlp.down_proj.weight[3, 5] = math.nan
    swap = {"model": base, "decoder": base.get_decoder(), "norm": base.get_decoder().norm}
    pair = replace(loaded.pair, base=replace(loaded.pair.base, head=base.lm_head, **swap))
    result = run(pair, loaded.batch("one_image"), stable(layers=layers, steps=2))
    assert outcomes(result) == ["non_finite"]
    assert not result.delta.any()


def poisoned_pixels(inputs: Any, image: int) -> dict[str, Tensor]:
    sizes = inputs["image_grid_thw"].prod(1).tolist()
    pixels = [piece.clone() for piece in inputs["pixel_values"].split(sizes)]
    pixels[image][0, 0] = math.nan
    return {**inputs, "pixel_values": torch.cat(pixels)}


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_poisoned_row_harms_no_other(loaded: Loaded, keep: Any) -> None:
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, stable(steps=4, keep=keep))
    targets = steered.targets(inputs)
    clean = steered.optimise(inputs, targets=targets)
    result = steered.optimise(poisoned_pixels(inputs, 2), targets=targets)
    assert outcomes(result) == ["applied", "no_visual_tokens", "non_finite"]
    assert torch.equal(rows_of(result)[0], rows_of(clean)[0])
    assert result.samples[0] == clean.samples[0]
    assert not rows_of(result)[2].any()


def test_a_batch_keeps_its_outcomes_apart(loaded: Loaded) -> None:
    # Row 0 is matched to the policy itself, row 2 to the base.
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, stable(select="all", steps=3))
    theirs = steered.targets(inputs)
    own = Steered(make_pair(loaded.policy, loaded.policy), steered.config).targets(inputs)
    first = (owner_of(inputs) == 0)[:, None]
    layers = {
        layer: LayerTarget(
            target.index,
            torch.where(first, own.layers[layer].log_probs, target.log_probs),
            torch.where(first, own.layers[layer].ids, target.ids),
        )
        for layer, target in theirs.layers.items()
    }
    result = steered.optimise(inputs, targets=replace(theirs, layers=layers))
    assert outcomes(result) == ["no_drift", "no_visual_tokens", "applied"]
    assert (result.samples[0].steps, result.samples[2].steps) == (0, 3)
    assert not rows_of(result)[0].any()
    plain = steered.optimise(inputs, targets=theirs)
    assert gap(rows_of(result)[2], rows_of(plain)[2]) < CLOSE


def out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise torch.cuda.OutOfMemoryError("no room for 3 GiB\nand a table")


def test_running_out_of_memory_is_an_outcome(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = loaded.batch("mixed")
    steered = Steered(loaded.pair, stable())
    with monkeypatch.context() as patch:
        patch.setattr(DecoderCall, "activations", out_of_memory)
        result = steered.optimise(inputs)
    assert outcomes(result) == ["out_of_memory"] * 3
    told = {record.error for record in records_of(steered, result)}
    assert told == {"OutOfMemoryError: no room for 3 GiB"}
    answer = steered.decode(inputs, result, **greedy())
    assert torch.equal(answer, loaded.policy.generate(**inputs, **greedy()))


def test_strict_raises_when_memory_runs_out(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecoderCall, "activations", out_of_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="no room"):
        run(one, one.batch("one_image"), stable(strict=True))


@pytest.mark.parametrize("keep_going", [{"steps": 0}, {"threshold": 1e-6}, {"steps": 2}])
def test_strict_lets_a_harmless_outcome_pass(one: Loaded, keep_going: Any) -> None:
    inputs = one.batch("mixed")
    strict, plain = (run(one, inputs, stable(strict=s, **keep_going)) for s in (True, False))
    assert outcomes(strict) == outcomes(plain)


def test_strict_raises_what_an_unstable_descent_did(one: Loaded) -> None:
    with pytest.raises(ReplayError, match=r"replay of sample 0 of the batch ended as diverged: it"):
        run(one, one.batch("mixed"), stable(step_size=3e5, strict=True))


def test_strict_raises_what_is_not_finite(one: Loaded) -> None:
    inputs = one.batch("mixed")
    steered = Steered(one.pair, stable(steps=1, strict=True))
    targets = steered.targets(inputs)
    with pytest.raises(ReplayError, match="sample 2 of the batch ended as non_finite"):
        steered.optimise(poisoned_pixels(inputs, 2), targets=targets)


def test_other_errors_are_raised(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(DecoderCall, "activations", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(one, one.batch("one_image"), stable())


@pytest.mark.parametrize("method", ["none", "base"])
def test_without_replay_the_outcome_is_off(one: Loaded, method: Any) -> None:
    result = run(one, one.batch("mixed"), ReplayConfig(method=method))
    assert outcomes(result) == ["off"] * 3
    assert result.delta is None


# --- closed forms -------------------------------------------------------------------------------


def test_descent_is_plain_gradient_descent() -> None:
    problem = toy(stable(step_size=0.1, steps=7), curve=[1, 4], slope=[1, -2], start=[9, 9])
    descent = descend(problem)
    # x_t = -slope / curve * (1 - (1 - alpha curve)^t)
    expected = [-1 * (1 - 0.9**7), 0.5 * (1 - 0.6**7)]
    for sample, value in enumerate(expected):
        torch.testing.assert_close(descent.delta[sample], torch.full((2,), value))
    assert descent.losses.shape == (2, 8)
    assert [o.value for o in descent.outcomes] == ["applied", "applied"]
    assert torch.equal(descent.loss_after, descent.losses[:, -1])


@pytest.mark.parametrize(("keep", "outcome"), [("last", "diverged"), ("best", "applied")])
def test_keep_best_is_per_sample(keep: Any, outcome: str) -> None:
    # Sample 1 takes one good step, hits a wall with the second and is thrown far back.
    config = stable(step_size=0.1, steps=5, keep=keep)

    @dataclass(frozen=True)
    class Wall(Toy):
        def losses(self, delta: Tensor) -> Tensor:
            quadratic = super().losses(delta)
            wall = (300 * (delta - 0.15).clamp(min=0).square()).sum(1)
            return torch.stack([quadratic[0], quadratic[1] + wall[1]])

    plain = toy(config, curve=[1, 0], slope=[-1, -1], start=[9, 9])
    problem = Wall(**vars(plain))
    descent = descend(problem)
    assert [o.value for o in descent.outcomes] == ["applied", outcome]
    assert torch.equal(descent.delta[0], descend(plain).delta[0])
    if keep == "best":
        assert torch.equal(descent.loss_after, descent.losses.min(1).values)
        assert torch.allclose(problem.losses(descent.delta).float(), descent.loss_after)
    else:
        assert torch.equal(descent.loss_after, descent.losses[:, -1])


@pytest.mark.parametrize(("curve", "outcome"), [(19.0, "applied"), (21.0, "diverged")])
def test_descent_is_stable_while_alpha_times_curvature_is_below_two(
    curve: float, outcome: str
) -> None:
    problem = toy(stable(step_size=0.1), curve=[curve], slope=[0.1], start=[9.0])
    descent = descend(problem)
    assert descent.outcomes[0].value == outcome
    assert bool(descent.delta.any()) == (outcome == "applied")


@pytest.mark.parametrize(
    ("peak", "end", "keep", "outcome", "rose"),
    [
        (1.02, 0.6, "last", "applied", False),
        (1.2, 0.6, "last", "applied", True),
        (40.0, 0.9, "last", "applied", True),
        (40.0, 0.9, "best", "applied", True),
        (1.2, 1.04, "last", "diverged", True),
        (1.02, 1.01, "last", "diverged", False),
        (1.2, 1.04, "best", "no_effect", True),
        (1.2, float("nan"), "last", "non_finite", True),
    ],
)
def test_x_is_kept_by_where_the_loss_ends_not_by_how_it_got_there(
    peak: float, end: float, keep: Any, outcome: str, rose: bool
) -> None:
    curve = [1.0, peak, 0.5 * (1 + end), end]

    @dataclass(frozen=True)
    class Planted(Toy):
        def losses(self, delta: Tensor) -> Tensor:
            # Every step moves x by 0.1 along the first axis: the iterate tells where we are.
            step = round(float(delta.detach()[0, 0]) / 0.1)
            return curve[step] - delta.sum(1) + delta.detach().sum(1)

    start = toy(stable(step_size=0.1, steps=3, keep=keep), curve=[0], slope=[0], start=[1])
    problem = Planted(**vars(start))
    descent = descend(problem)
    seen = descent.losses[0].tolist()
    assert seen == pytest.approx(curve[: len(seen)], nan_ok=True)
    assert descent.outcomes[0].value == outcome
    assert bool(descent.delta.any()) == (outcome == "applied")
    (sample,) = describe(problem, descent)
    assert sample.rose is rose
    assert sample.loss_peak == pytest.approx(peak)


def test_a_sample_that_rises_and_ends_low_keeps_its_last_x(loaded: Loaded) -> None:
    # Enormous steps overwrite the features, and the loss then falls: the method's own result.
    result = run(loaded, loaded.batch("one_image"), stable(step_size=3000))
    (sample,) = result.samples
    assert sample.loss_after < sample.losses[0]
    assert (sample.outcome, sample.rose) == ("applied", True)
    assert sample.loss_peak == max(sample.losses) > 1.05 * sample.losses[0]
    assert result.delta.any()


def test_a_loss_that_is_only_rounding_is_no_drift_and_one_above_is_not() -> None:
    start = [0.9 * ROUNDING_FLOOR, 1.1 * ROUNDING_FLOOR, 9.0]
    problem = toy(stable(step_size=1e-3, steps=3), curve=[0] * 3, slope=[1e-4] * 3, start=start)
    descent = descend(problem)
    assert [o.value for o in descent.outcomes] == ["no_drift", "applied", "applied"]
    samples = describe(problem, descent)
    assert [sample.steps for sample in samples] == [0, 3, 3]
    assert samples[0].loss_after == samples[0].losses[0] == pytest.approx(start[0])


def test_the_rounding_floor_is_divided_by_the_visual_tokens_as_the_loss_is() -> None:
    start = [0.9 * ROUNDING_FLOOR / 8, 1.1 * ROUNDING_FLOOR / 8]
    config = stable(step_size=1e-3, steps=1)
    problem = toy(config, curve=[0] * 2, slope=[1e-4] * 2, start=start, tokens=8)
    assert [o.value for o in descend(problem).outcomes] == ["no_drift", "applied"]


def test_reference_knows_no_rounding_floor() -> None:
    config = stable("reference", step_size=1e-3, steps=3)
    problem = toy(config, curve=[0], slope=[1e-4], start=[0.5 * ROUNDING_FLOOR])
    assert descend(problem).outcomes[0].value == "applied"


def test_a_gradient_that_is_not_finite_ends_its_own_sample_only() -> None:
    @dataclass(frozen=True)
    class Cusp(Toy):
        def losses(self, delta: Tensor) -> Tensor:
            assert delta.isfinite().all()
            root = delta[1].abs().sum().sqrt()  # finite at 0, its slope is not
            return super().losses(delta) + torch.stack([torch.zeros(()), root])

    config = stable(step_size=0.1, steps=3)
    plain = toy(config, curve=[1, 1], slope=[1, 1], start=[9, 9])
    descent = descend(Cusp(**vars(plain)))
    assert [o.value for o in descent.outcomes] == ["applied", "non_finite"]
    assert torch.equal(descent.delta[0], descend(plain).delta[0])
    assert not descent.delta[1].any()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_descent_that_overflows_is_non_finite(keep: Any) -> None:
    config = stable(step_size=1e9, steps=9, keep=keep)
    problem = toy(config, curve=[1, 0], slope=[1, 1e-9], start=[9, 1e-5])
    descent = descend(problem)
    assert [o.value for o in descent.outcomes] == ["non_finite", "applied"]
    assert descent.losses[0, :3].isfinite().all()
    assert not descent.delta[0].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_its_own_sample_only(value: float) -> None:
    # Its gradient is finite: the loss alone tells.
    problem = toy(stable(step_size=0.1), curve=[0, 1], slope=[1, 1], start=[value, 9])
    descent = descend(problem)
    assert [o.value for o in descent.outcomes] == ["non_finite", "applied"]
    assert not descent.delta[0].any()
    assert descent.delta[1].all()


def test_the_loop_ends_when_every_sample_has() -> None:
    problem = toy(stable(), curve=[0], slope=[1], start=[math.nan])
    assert descend(problem).losses.shape == (1, 1)


def test_an_unmatched_sample_is_a_sample_without_losses() -> None:
    sample = SampleReplay("off")
    assert (sample.loss_before, sample.steps) == (None, 0)


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_a_maximum_per_image_is_the_oracles(loaded: Loaded, boundary: str) -> None:
    inputs = loaded.batch("two_images")
    config = stable(boundary, maximum="image", threshold=0.8, steps=3)
    slow = oracle.oracle_replay(
        loaded.policy,
        loaded.base,
        inputs,
        boundary=boundary,
        top_k=50,
        maximum_over="image",
        **{**vars(tiny.STABLE[boundary]), "threshold": 0.8, "steps": 3},
    )
    steered = Steered(loaded.pair, config)
    (mine,) = masks_of(steered.targets(inputs), owner_of(inputs))
    for layer, mask in slow.masks.items():
        assert torch.equal(mine[layer], mask)
    assert gap(steered.optimise(inputs).delta, slow.delta) < 1e-4
    whole = stable(boundary, threshold=0.8)
    (one,) = masks_of(Steered(loaded.pair, whole).targets(inputs), owner_of(inputs))
    assert any(not torch.equal(one[layer], mine[layer]) for layer in mine)


def test_images_of_different_rows_have_maxima_of_their_own(one: Loaded) -> None:
    # Row 2's first image begins in the column behind which row 0's only one may end.
    config, batch = stable(maximum="image"), one.batch("mixed")
    together = masks_of(Steered(one.pair, config).targets(batch), owner_of(batch))
    for row in (0, 2):
        single = one.singles("mixed")[row]
        (alone,) = masks_of(Steered(one.pair, config).targets(single), owner_of(single))
        assert all(torch.equal(together[row][layer], alone[layer]) for layer in alone)


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_fixed_thresholds_are_the_oracles(loaded: Loaded, boundary: str) -> None:
    inputs = loaded.batch("two_images")
    fixed = {0: 2.2, 1: 2.8, 2: 3.1}
    clean = judge(loaded, inputs, stable(boundary, steps=0))
    strict = boundary == "reference"
    wanted = {
        layer: values < fixed[layer] if strict else values <= fixed[layer]
        for layer, values in clean.entropies.items()
    }
    config = stable(boundary, thresholds=fixed, steps=3)
    slow = judge(loaded, inputs, stable(boundary, steps=3), wanted)
    assert any(mask.any() and not mask.all() for mask in wanted.values())
    assert gap(run(loaded, inputs, config).delta, slow.delta) < 1e-4


def test_a_fixed_threshold_is_reached_by_equal_entropies_in_aligned_only(one: Loaded) -> None:
    entropies, group = torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.long)
    for boundary, expected in (("aligned", [True, True]), ("reference", [True, False])):
        config = stable(boundary, thresholds={0: 2.0})
        assert low_mask(entropies, group, 0, config).tolist() == expected


def test_steps_by_tokens_are_published_ones_times_n_squared(loaded: Loaded) -> None:
    inputs = loaded.batch("one_image")
    n = int((inputs["mm_token_type_ids"] > 0).sum())
    config = stable(steps=3)
    slow = judge(loaded, inputs, config)
    scaled = stable(steps=3, step_scaling="tokens", step_size=config.step_size / n**2)
    assert gap(run(loaded, inputs, scaled).delta, slow.delta) < 1e-4


def test_steps_by_tokens_count_each_samples_own(one: Loaded) -> None:
    batch, singles = one.batch("mixed"), one.singles("mixed")
    config = stable(steps=2, step_scaling="tokens", step_size=3e-3)
    together = rows_of(run(one, batch, config))
    for row in (0, 2):
        torch.testing.assert_close(
            together[row], run(one, singles[row], config).delta, atol=1e-4, rtol=1e-3
        )
