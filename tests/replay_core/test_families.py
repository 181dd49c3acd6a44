"""DESIGN.md's invariants and the oracle, once for every family; the long suites are elsewhere."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from replay_core import Steered, UsageError, make_pair
from replay_core.model.call import decoder_call
from replay_core.model.doors import check_doors
from replay_core.model.vision import PIXELS, visual_features, without_pixels
from tests.replay_core.helpers import (
    Loaded,
    gap,
    greedy,
    hooked,
    judge,
    outcomes,
    rows_of,
    same_answer,
    stable,
    state_of,
    told,
)
from tests.support import families, oracle, tiny

VIDEO = [name for name, made in families.FAMILIES.items() if made.video is not None]


@pytest.fixture(params=tiny.EVERY_FAMILY)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def batches(loaded: Loaded, family: str) -> Iterator[str]:
    """Yield the ready batches that a family takes."""
    yield from ("mixed", "two_images")
    if family not in families.FAMILIES or family in VIDEO:
        yield "clip"
        if family != "glm4v":  # its own forward refuses image and video in one batch
            yield "mixed_video"


def score_ids(rows: int) -> Tensor:
    return torch.randint(5, 250, (rows, 3), generator=torch.Generator().manual_seed(0))


def compared(loaded: Loaded, name: str, boundary: str = "aligned", **changes: Any) -> None:
    """Check x of every row of a batch against the oracle's, which takes the rows one by one."""
    config = stable(boundary, steps=5, **changes)
    result = Steered(loaded.pair, config).optimise(loaded.batch(name))
    seen = iter(rows_of(result))
    checked = 0
    for single, sample in zip(loaded.singles(name), result.samples, strict=True):
        delta = next(seen)
        if not len(oracle.visual_positions(loaded.policy, single)):
            assert sample.outcome.value == "no_visual_tokens"
            continue
        expected = judge(loaded, single, config)
        assert expected.losses[-1] < 0.999 * expected.losses[0]
        assert gap(delta, expected.delta) < 1e-4
        assert torch.tensor(sample.losses) == pytest.approx(torch.tensor(expected.losses), rel=1e-4)
        checked += 1
    assert checked


# --- the oracle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["aligned", "reference"])
def test_x_is_the_oracles(loaded: Loaded, family: str, boundary: str) -> None:
    for name in batches(loaded, family):
        compared(loaded, name, boundary)


@pytest.mark.parametrize("changes", [{"positions": "input"}, {"top_k": "full"}])
def test_x_is_the_oracles_with_other_settings(loaded: Loaded, changes: Any) -> None:
    compared(loaded, "two_images", **changes)


def test_the_last_layer_too_is_the_oracles(loaded: Loaded) -> None:
    compared(loaded, "two_images", layers=(1, 4))


def test_x_reaches_answers_and_scores_as_the_oracle_says(loaded: Loaded) -> None:
    inputs, ids = loaded.batch("mixed", "right"), score_ids(3)
    steered = Steered(loaded.pair, stable(steps=3))
    result = steered.optimise(inputs)
    answer, scores = steered.decode(inputs, result, **told()), steered.score(inputs, result, ids)
    for row in (0, 2):
        single = loaded.singles("mixed")[row]
        delta = judge(loaded, single, steered.config).delta
        logits = oracle.oracle_logits(loaded.policy, single, delta)[0, -1]
        plain = oracle.oracle_logits(loaded.policy, single, torch.zeros_like(delta))[0, -1]
        error = gap(answer.logits[0][row], logits)
        assert error < 1e-4
        assert gap(plain, logits) > 10 * error  # small where the window slides past the picture
        longer = dict(single)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            if name in single:
                tail = {"input_ids": ids[row : row + 1], "attention_mask": torch.ones(1, 3).long()}
                tail = tail.get(name, torch.zeros(1, 3).long())
                longer[name] = torch.cat([single[name], tail], 1)
        logits = oracle.oracle_logits(loaded.policy, longer, delta)[0, -4:-1]
        expected = logits.log_softmax(-1)[torch.arange(3), ids[row]]
        torch.testing.assert_close(scores[row], expected, rtol=1e-3, atol=1e-3)


# --- the invariants -----------------------------------------------------------------------------


def test_zero_steps_and_no_replay_are_the_plain_policy_bitwise(either: Loaded, family: str) -> None:
    for name in batches(either, family):
        inputs = either.batch(name)
        expected = either.policy.generate(**inputs, **told())
        for config in (stable(steps=0), stable(method="none")):
            answer = Steered(either.pair, config).generate(**either.batch(name), **told())
            assert same_answer(answer, expected)


def test_zero_steps_are_bitwise_with_beams(loaded: Loaded) -> None:
    how = told(num_beams=2, num_return_sequences=2)
    expected = loaded.policy.generate(**loaded.batch("mixed"), **how)
    answer = Steered(loaded.pair, stable(steps=0)).generate(**loaded.batch("mixed"), **how)
    assert same_answer(answer, expected)


def test_a_self_pair_has_no_drift(either: Loaded) -> None:
    inputs = either.batch("mixed")
    steered = Steered(make_pair(either.policy, either.policy), stable())
    result = steered.optimise(inputs)
    assert outcomes(result) == ["no_drift", "no_visual_tokens", "no_drift"]
    assert not result.delta.any()
    assert result.samples[0].losses == (0.0,)
    expected = either.policy.generate(**inputs, **told())
    assert same_answer(steered.decode(inputs, result, **told()), expected)


def test_swapping_base_and_policy_changes_x(loaded: Loaded) -> None:
    inputs, config = loaded.batch("two_images"), stable(steps=2)
    there = Steered(loaded.pair, config).optimise(inputs)
    back = Steered(loaded.swapped(), config).optimise(inputs)
    assert outcomes(there) == outcomes(back) == ["applied"]
    assert gap(there.delta, back.delta) > 1e-2


def test_batch_padding_and_order_change_neither_x_nor_answer(loaded: Loaded) -> None:
    config, options = stable(steps=4), greedy(min_new_tokens=4)
    steered = Steered(loaded.pair, config)
    alone = [steered.optimise(single) for single in loaded.singles("mixed")]
    texts = [steered.generate(**single, **options)[:, -4:] for single in loaded.singles("mixed")]
    for side in ("left", "right"):
        inputs = loaded.batch("mixed", side)
        result = steered.optimise(inputs)
        for row, delta in zip((0, 2), (rows_of(result)[0], rows_of(result)[2]), strict=True):
            assert gap(delta, alone[row].delta) < 1e-4
        answers = steered.decode(inputs, result, **options)[:, -4:]
        assert torch.equal(answers, torch.cat(texts))


def test_the_same_run_twice_is_the_same_and_leaves_the_models_as_found(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    models = (loaded.policy, loaded.base)
    before = state_of(*models)
    with torch.no_grad():
        logits = [model(**inputs).logits for model in models]
    steered = Steered(loaded.pair, stable(steps=2))
    first, second = (steered.optimise(loaded.batch("mixed")) for _ in range(2))
    assert torch.equal(first.delta, second.delta)
    assert outcomes(first) == ["applied", "no_visual_tokens", "applied"]
    steered.generate(**inputs, **greedy())
    broken = loaded.pair.policy.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with hooked([broken]), pytest.raises(ZeroDivisionError):
        steered.optimise(inputs)
    assert state_of(*models) == before
    with torch.no_grad():
        assert all(
            torch.equal(model(**inputs).logits, kept)
            for model, kept in zip(models, logits, strict=True)
        )


def test_the_base_arm_is_the_base(loaded: Loaded) -> None:
    inputs = loaded.batch("mixed")
    answer = Steered(loaded.pair, stable(method="base")).generate(**inputs, **told())
    assert same_answer(answer, loaded.base.generate(**inputs, **told()))


# --- doors --------------------------------------------------------------------------------------


def test_features_are_what_the_decoder_sees(either: Loaded, family: str) -> None:
    check_doors(either.pair.policy)
    for name in ("two_images", *(["clip"] if "clip" in batches(either, family) else [])):
        inputs = either.batch(name)
        features = visual_features(either.policy, inputs)
        assert torch.equal(features.flat, oracle.oracle_features(either.policy, inputs))
        positions = oracle.visual_positions(either.policy, inputs)
        assert features.positions[0].nonzero().flatten().tolist() == positions.tolist()


def test_edited_features_reach_the_decoder_in_place(loaded: Loaded, family: str) -> None:
    for name in ("two_images", *(["clip"] if "clip" in batches(loaded, family) else [])):
        inputs = loaded.batch(name)
        features = visual_features(loaded.policy, inputs)
        delta = torch.randn(features.flat.shape, generator=torch.Generator().manual_seed(0))
        text = without_pixels(loaded.policy, inputs)
        with torch.no_grad():
            logits = loaded.policy(**text, mm_encoder_outputs=features.plus(delta)).logits
        assert torch.equal(logits, oracle.oracle_logits(loaded.policy, inputs, delta))


def test_a_window_reads_what_the_whole_pass_reads(loaded: Loaded, family: str) -> None:
    """Cut, or left whole where the mask is the model's own (Gemma 3)."""
    inputs = loaded.batch("mixed")
    features = visual_features(loaded.policy, inputs)
    columns = features.positions.any(0).nonzero()[:, 0]
    start, stop = int(columns[0]), int(columns[-1]) + 1
    whole = decoder_call(loaded.pair.policy, inputs, features)
    window = whole.window(start, stop, 4)
    assert start > 0
    assert (window is whole) == (family == "gemma3")
    with torch.no_grad(), oracle._capture(loaded.policy) as seen:
        loaded.policy(**inputs, use_cache=False)
    for where, expected in (("after", seen.after), ("before", seen.before)):
        with torch.no_grad():
            states = window.activations([0, 3], where=where)
        for layer in (0, 3):
            first = window.start
            read = states[layer][:, start - first : stop - first][features.positions[:, start:stop]]
            right = expected[layer][features.positions]
            torch.testing.assert_close(read, right, rtol=1e-4, atol=1e-4)


def test_deepstack_features_are_passed_on_untouched(load: Any) -> None:
    loaded = load("qwen3_vl")
    inputs = loaded.batch("two_images")
    features = visual_features(loaded.policy, inputs)
    kept = [torch.cat(tuple(layer)) for layer in features.outputs["image"].deepstack_features]
    result = Steered(loaded.pair, stable(steps=3)).optimise(inputs)
    again = result.features.plus(result.delta)["image"].deepstack_features
    assert len(kept) == 2
    for before, after in zip(kept, again, strict=True):
        assert torch.equal(torch.cat(tuple(after)), before)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["replay", "inject"])
def test_placeholders_without_pixels_are_refused(loaded: Loaded, family: str, method: Any) -> None:
    steered = Steered(loaded.pair, stable(method=method, steps=1))
    for name in batches(loaded, family):
        whole = loaded.batch(name)
        bare = {key: value for key, value in whole.items() if key not in PIXELS}
        for ask in (steered.optimise, steered.targets):
            with pytest.raises(UsageError, match=r"hold \d+ (image|video) tokens without pixel_va"):
                ask(bare)


@pytest.mark.parametrize("lost", ["pixel_values", "pixel_values_videos"])
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_one_modality_without_its_pixels_is_refused(load: Any, kind: str, lost: str) -> None:
    loaded = load(kind)
    inputs = dict(loaded.batch("mixed_video"))
    modality = "video" if lost == "pixel_values_videos" else "image"
    token = getattr(loaded.policy.config, f"{modality}_token_id")
    many = int((inputs["input_ids"] == token).sum())
    del inputs[lost]
    with pytest.raises(UsageError, match=f"hold {many} {modality} tokens without {lost}; pass the"):
        Steered(loaded.pair, stable(steps=1)).optimise(inputs)


def test_text_alone_is_still_text_alone(loaded: Loaded) -> None:
    text = loaded.singles("mixed")[1]
    assert outcomes(Steered(loaded.pair, stable()).optimise(text)) == ["no_visual_tokens"]
