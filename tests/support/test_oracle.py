"""The oracle judged by what needs no oracle: identities, finite differences, formulas by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from . import oracle, tiny

BOUNDARIES = ("aligned", "reference")
TOP_K = (50, None)


class Pair:
    """A loaded pair of one family and its processor."""

    def __init__(self, folder: Path, family: str) -> None:
        """Make the pair in ``folder`` and load it."""
        paths = tiny.make_pair(folder, family)
        self.policy: PreTrainedModel = tiny.load_model(paths.policy)
        self.base: PreTrainedModel = tiny.load_model(paths.base)
        self.processor: ProcessorMixin = tiny.load_processor(paths.policy)

    def inputs(self, name: str) -> BatchFeature:
        """Return the ready batch ``name``."""
        return tiny.make_batch(self.processor, name)


@pytest.fixture(scope="session", params=tiny.FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp(request.param), request.param)


def replay(pair: Pair, inputs: BatchFeature, boundary: str, **changes: Any) -> oracle.OracleResult:
    """Return the oracle's replay with the stable settings of ``boundary``, less ``changes``."""
    settings = {"top_k": 50, **vars(tiny.STABLE[boundary]), **changes}
    return oracle.oracle_replay(pair.policy, pair.base, inputs, boundary=boundary, **settings)


def random_delta(pair: Pair, inputs: BatchFeature, scale: float = 0.1) -> torch.Tensor:
    features = oracle.oracle_features(pair.policy, inputs)
    return scale * torch.randn(features.shape, generator=torch.Generator().manual_seed(7))


# --- x goes where it should ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one_image", "two_images", "video"])
def test_zero_delta_is_the_pixel_path_bitwise(pair: Pair, name: str) -> None:
    inputs = pair.inputs(name)
    with torch.no_grad():
        pixels = pair.policy(**inputs).logits
    delta = random_delta(pair, inputs)
    assert torch.equal(oracle.oracle_logits(pair.policy, inputs, torch.zeros_like(delta)), pixels)
    assert not torch.allclose(oracle.oracle_logits(pair.policy, inputs, delta), pixels, atol=1e-2)


def test_delta_lands_on_the_visual_positions_in_prompt_order(pair: Pair) -> None:
    inputs = pair.inputs("two_images")
    delta = random_delta(pair, inputs)
    with torch.no_grad(), oracle._capture(pair.policy) as plain:
        pair.policy(**inputs)
    with (
        torch.no_grad(),
        oracle._added(pair.policy, inputs, delta),
        oracle._capture(pair.policy) as steered,
    ):
        pair.policy(**inputs)
    expected = plain.before[0].clone()
    for row, position in enumerate((inputs["mm_token_type_ids"][0] > 0).nonzero().flatten()):
        expected[0, position] = plain.before[0][0, position] + delta[row]
    assert torch.equal(steered.before[0], expected)


def test_delta_agrees_with_the_models_own_door(pair: Pair) -> None:
    inputs = dict(pair.inputs("two_images"))
    delta = random_delta(pair, inputs)
    expected = oracle.oracle_logits(pair.policy, inputs, delta)
    with torch.no_grad():
        vision = pair.policy.get_image_features(
            inputs.pop("pixel_values"), inputs["image_grid_thw"]
        )
        vision.pooler_output = [torch.cat(list(vision.pooler_output)) + delta]
        actual = pair.policy(**inputs, mm_encoder_outputs={"image": vision}).logits
    assert torch.equal(actual, expected)


# --- entropies, masks, divergence ---------------------------------------------------------------


def test_lens_after_the_last_layer_is_the_models_own_output(pair: Pair) -> None:
    inputs = pair.inputs("one_image")
    last = len(pair.base.get_decoder().layers) - 1
    targets = oracle.oracle_targets(pair.base, inputs, layers=[last], threshold=0.7)
    with torch.no_grad():
        logits = pair.base(**inputs).logits[0, targets.positions]
    torch.testing.assert_close(targets.logits[last], logits, rtol=1e-5, atol=1e-5)
    log_p = logits.double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(targets.entropies[last].double(), entropy, rtol=1e-5, atol=1e-5)


def test_masks_split_the_candidates_at_gamma_times_the_maximum(pair: Pair) -> None:
    inputs = pair.inputs("two_images")
    arguments: dict[str, Any] = {"layers": [0, 2], "threshold": 0.7}
    low = oracle.oracle_targets(pair.base, inputs, **arguments)
    high = oracle.oracle_targets(pair.base, inputs, **arguments, select="high")
    everything = oracle.oracle_targets(pair.base, inputs, **arguments, select="all")
    full = oracle.oracle_targets(pair.base, inputs, layers=[0, 2], threshold=1.0)
    for layer in (0, 2):
        largest = max(low.entropies[layer].tolist())
        expected = [value <= 0.7 * largest for value in low.entropies[layer].tolist()]
        assert low.masks[layer].tolist() == expected
        assert 0 < sum(expected) < len(expected)
        assert torch.equal(high.masks[layer], ~low.masks[layer])
        assert everything.masks[layer].all()
        assert full.masks[layer].all()


def test_a_maximum_per_image_masks_each_image_as_if_alone(pair: Pair) -> None:
    inputs = pair.inputs("two_images")
    assert oracle.image_numbers(pair.base, inputs).tolist() == [0] * 8 + [1] * 12
    layers = range(5)
    arguments: dict[str, Any] = {"layers": layers, "threshold": 0.7}
    alone = oracle.oracle_targets(pair.base, inputs, **arguments, maximum_over="image")
    together = oracle.oracle_targets(pair.base, inputs, **arguments)
    for layer in layers:
        entropies, masks = alone.entropies[layer].split([8, 12]), alone.masks[layer].split([8, 12])
        for entropy, mask in zip(entropies, masks, strict=True):
            assert torch.equal(mask, entropy <= 0.7 * entropy.max())
    assert any(not torch.equal(alone.masks[layer], together.masks[layer]) for layer in layers)


def test_candidates_can_be_the_whole_prompt(pair: Pair) -> None:
    inputs = pair.inputs("one_image")
    result = replay(pair, inputs, "aligned", steps=0, candidates="input")
    assert result.masks[0].shape == (inputs["input_ids"].shape[1],)
    assert result.delta.shape == result.features.shape == (15, 64)
    assert result.first_gradient.abs().sum() > 0


@pytest.mark.parametrize("top_k", TOP_K)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_loss_is_the_formula_by_hand(pair: Pair, boundary: str, top_k: int | None) -> None:
    inputs = pair.inputs("two_images")
    result = replay(pair, inputs, boundary, top_k=top_k, layers=[1, 3], steps=0)
    with torch.no_grad():
        base = pair.base(**inputs, output_hidden_states=True).hidden_states
        policy = pair.policy(**inputs, output_hidden_states=True).hidden_states
    visual = (inputs["mm_token_type_ids"][0] > 0).nonzero().flatten()
    expected = 0.0
    for layer in (1, 3):
        # hidden_states[l] is before layer l, hidden_states[l + 1] after it.
        policy_index = layer + 1 if boundary == "aligned" else layer
        divergences = []
        for row, position in enumerate(visual):
            if not result.masks[layer][row]:
                continue
            p = _probabilities(pair.base, base[layer + 1][0, position])
            q = _probabilities(pair.policy, policy[policy_index][0, position])
            support = p.argsort(descending=True)[:top_k]
            p, q = p[support] / p[support].sum(), q[support] / q[support].sum()
            divergences.append(float((p * (p / q).log()).sum()))
        expected += sum(divergences) / len(divergences)
    assert result.losses[0] == pytest.approx(expected / len(visual), rel=1e-5)


def _probabilities(model: PreTrainedModel, state: torch.Tensor) -> torch.Tensor:
    """Return softmax(head(norm(state))), (V,), in float64, RMSNorm spelled out."""
    norm, h = model.get_decoder().norm, state.double()
    normed = norm.weight.double() * h / (h.square().mean() + norm.variance_epsilon).sqrt()
    return (model.get_output_embeddings().weight.double() @ normed).softmax(-1)


# --- gradient and descent -----------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["gradient", "random"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradient_agrees_with_a_directional_difference(
    pair: Pair, boundary: str, direction: str
) -> None:
    inputs = pair.inputs("two_images")
    settings = tiny.STABLE[boundary]
    targets = oracle.oracle_targets(
        pair.base, inputs, layers=settings.layers, threshold=settings.threshold
    )
    arguments: dict[str, Any] = {"boundary": boundary, "top_k": 50}
    x = random_delta(pair, inputs)
    _, gradient = oracle.oracle_gradient(pair.policy, inputs, x, targets, **arguments)
    step = gradient if direction == "gradient" else random_delta(pair, inputs, 1.0).flip(0)
    step = step / step.square().mean().sqrt()
    epsilon = 1e-3  # of root mean square 1; the features' is about 1.9
    with torch.no_grad():
        above, below = (
            oracle.oracle_loss(pair.policy, inputs, x + sign * epsilon * step, targets, **arguments)
            for sign in (1, -1)
        )
    slope = float(above.double() - below.double()) / (2 * epsilon)
    expected = float((gradient.double() * step.double()).sum())
    assert slope == pytest.approx(expected, rel=2e-3, abs=2e-3 * float(gradient.norm()))


@pytest.mark.parametrize(
    ("name", "top_k"), [("one_image", 50), ("one_image", None), ("two_images", 50)]
)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_loss_falls_at_every_step_in_the_stable_regime(
    pair: Pair, boundary: str, name: str, top_k: int | None
) -> None:
    result = replay(pair, pair.inputs(name), boundary, top_k=top_k)
    assert len(result.losses) == 26
    assert all(after < before for before, after in pairwise(result.losses))
    assert result.losses[-1] < 0.66 * result.losses[0]
    assert all(0 < mask.sum() < len(mask) for mask in result.masks.values())


def test_first_step_is_minus_alpha_times_the_first_gradient(pair: Pair) -> None:
    inputs = pair.inputs("one_image")
    none = replay(pair, inputs, "aligned", steps=0)
    one = replay(pair, inputs, "aligned", steps=1)
    assert torch.equal(none.delta, torch.zeros(15, 64))
    assert len(none.losses) == 1
    assert torch.equal(one.first_gradient, none.first_gradient)
    assert torch.equal(one.delta, -tiny.STABLE["aligned"].step_size * one.first_gradient)


def test_self_pair_is_at_rest_aligned_and_not_in_reference(pair: Pair) -> None:
    inputs = pair.inputs("one_image")
    settings = {"top_k": 50, **vars(tiny.STABLE["aligned"])}
    aligned = oracle.oracle_replay(pair.base, pair.base, inputs, boundary="aligned", **settings)
    assert max(aligned.losses) < 1e-7
    assert aligned.delta.abs().max() < 1e-5
    settings["steps"] = 0
    reference = oracle.oracle_replay(pair.base, pair.base, inputs, boundary="reference", **settings)
    assert reference.losses[0] > 0.1


def test_swapping_the_pair_changes_the_result(pair: Pair) -> None:
    inputs = pair.inputs("one_image")
    settings = {"top_k": 50, **vars(tiny.STABLE["aligned"]), "steps": 1}
    there = oracle.oracle_replay(pair.policy, pair.base, inputs, boundary="aligned", **settings)
    back = oracle.oracle_replay(pair.base, pair.policy, inputs, boundary="aligned", **settings)
    assert there.losses[0] != pytest.approx(back.losses[0], rel=1e-3)
    assert not torch.equal(there.features, back.features)


def test_reference_at_layer_zero_moves_only_the_masked_tokens(pair: Pair) -> None:
    # Before layer 0 no position has seen another; after it, every later one has.
    inputs = pair.inputs("one_image")
    reference = replay(pair, inputs, "reference", layers=[0], steps=0)
    moved = reference.first_gradient.abs().sum(-1) > 0
    assert torch.equal(moved, reference.masks[0])
    aligned = replay(pair, inputs, "aligned", layers=[0], steps=0)
    assert (aligned.first_gradient.abs().sum(-1) > 0).sum() > reference.masks[0].sum()


def test_given_masks_replace_the_drawn_ones(pair: Pair) -> None:
    inputs = pair.inputs("one_image")
    mask = torch.zeros(15, dtype=torch.bool)
    mask[[2, 5]] = True
    result = replay(pair, inputs, "reference", layers=[0], steps=0, masks={0: mask})
    assert result.first_gradient.abs().sum(-1).nonzero().flatten().tolist() == [2, 5]


def test_an_empty_mask_leaves_nothing_to_do(pair: Pair) -> None:
    result = replay(pair, pair.inputs("one_image"), "aligned", threshold=0.0, steps=2)
    assert result.losses == [0.0, 0.0, 0.0]
    assert not result.delta.any()
    assert not result.first_gradient.any()


# --- manners ------------------------------------------------------------------------------------


def test_models_are_left_as_found(pair: Pair) -> None:
    def hooks(model: PreTrainedModel) -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    inputs = pair.inputs("one_image")
    before = [hooks(model) for model in (pair.policy, pair.base)]
    with torch.no_grad():
        logits = pair.policy(**inputs).logits
    replay(pair, inputs, "aligned", steps=2)
    with pytest.raises(ValueError, match="delta has 3 rows for 15 visual positions"):
        oracle.oracle_logits(pair.policy, inputs, torch.zeros(3, 64))
    assert [hooks(model) for model in (pair.policy, pair.base)] == before
    assert all(p.grad is None and not p.requires_grad for p in pair.policy.parameters())
    with torch.no_grad():
        assert torch.equal(pair.policy(**inputs).logits, logits)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mixed", {}, "one unpadded sample"),
        ("one_image", {"layers": [1, 5]}, r"layers \[5\] not in 0..4"),
        ("one_image", {"layers": [4], "boundary": "reference"}, "layer 4 is the last one"),
        ("one_image", {"boundary": "exact"}, "'exact' is neither"),
    ],
)
def test_refusals(pair: Pair, name: str, changes: dict[str, Any], message: str) -> None:
    settings = {"top_k": 50, "boundary": "aligned", **vars(tiny.STABLE["aligned"]), **changes}
    with pytest.raises(ValueError, match=message):
        oracle.oracle_replay(pair.policy, pair.base, pair.inputs(name), **settings)


def test_text_only_is_refused(pair: Pair) -> None:
    text_only = tiny.make_singles(pair.processor, "mixed")[1]
    with pytest.raises(ValueError, match="no visual positions"):
        replay(pair, text_only, "aligned")


# --- the checkpoints and the batches ------------------------------------------------------------


def test_padded_rows_equal_their_singles(pair: Pair) -> None:
    singles = tiny.make_singles(pair.processor, "mixed")
    for side in ("left", "right"):
        batch = tiny.make_batch(pair.processor, "mixed", padding_side=side)
        assert batch["attention_mask"][0, 0 if side == "left" else -1] == 0
        with torch.no_grad():
            logits = pair.policy(**batch).logits
            for row, single in enumerate(singles):
                real = batch["attention_mask"][row].bool()
                assert torch.equal(batch["input_ids"][row, real], single["input_ids"][0])
                expected = pair.policy(**single).logits[0]
                torch.testing.assert_close(logits[row, real], expected, rtol=0, atol=1e-4)


def test_every_tensor_of_the_policy_was_moved(pair: Pair) -> None:
    base = dict(pair.base.named_parameters())
    for name, weight in pair.policy.named_parameters():
        assert not torch.equal(weight, base[name]), name


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_checkpoints_follow_seed_and_overrides(tmp_path: Path, family: str) -> None:
    state = torch.get_rng_state()
    size = {"hidden_size": 96, "num_hidden_layers": 4, "vocab_size": 300}
    same, again, other = (
        tiny.make_checkpoint(tmp_path / name, family, seed=seed, dtype=torch.bfloat16, **size)
        for name, seed in (("same", 1), ("again", 1), ("other", 2))
    )
    assert torch.equal(torch.get_rng_state(), state)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (same, again, other)]
    assert weights[0] == weights[1] != weights[2]
    model = tiny.load_model(same)
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight.shape == (300, 96)
    assert len(model.get_decoder().layers) == 4
    processor = tiny.load_processor(same)
    assert len(processor.tokenizer) <= 300
    inputs = tiny.make_batch(processor, "one_image")
    answer = model.generate(**inputs, max_new_tokens=4)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    with pytest.raises(TypeError, match="depth"):
        tiny.make_checkpoint(tmp_path / "bad", family, seed=0, depth=3)


def test_chat_template_writes_the_qwen_wire_format(pair: Pair) -> None:
    text = pair.processor.batch_decode(pair.inputs("two_images")["input_ids"])[0]
    first, second = (
        f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in (8, 12)
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{first}{second}Which of the two images shows the steeper line?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
