"""A batch's answers are generate's own, each with its record; k answers need one descent."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from replay_core import Steered, UsageError
from replay_core.answer import Recent, answer, records_of
from replay_core.digest import content_digest
from replay_core.record import Seconds
from replay_core.sampling import seeds_of_copies
from tests.replay_core.helpers import Loaded, counted, greedy, outcomes, stable

DRAWN = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": True, "temperature": 3.0}


def inputs_of(one: Loaded, name: str = "two_images") -> dict[str, Any]:
    return dict(one.batch(name))


@pytest.fixture
def defaults(one: Loaded) -> Iterator[Any]:
    """The policy's own generation settings, put back afterwards."""
    settings = one.policy.generation_config
    before = dict(vars(settings))
    yield settings
    vars(settings).clear()
    vars(settings).update(before)


# --- the ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "base"])
@pytest.mark.parametrize("how", [greedy(), greedy(num_beams=2, num_return_sequences=2)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_left_alone_answers_as_its_own_generate(
    either: Loaded, method: Any, how: dict[str, Any], side: str
) -> None:
    """Bitwise, and however the prompts are padded: a stock run pads them as it likes."""
    inputs = dict(either.batch("mixed", side))
    model = either.base if method == "base" else either.policy
    given = answer(Steered(either.pair, stable(method=method)), inputs, how)
    assert torch.equal(given.ids, model.generate(**inputs, **how))
    assert given.prompt == inputs["input_ids"].shape[1]
    assert torch.equal(given.new, given.ids[:, given.prompt :])
    copies = how.get("num_return_sequences", 1)
    assert [record.outcome.value for record in given.records] == ["off"] * 3 * copies
    assert {record.method for record in given.records} == {method}


def test_the_base_is_another_model_than_the_policy(one: Loaded) -> None:
    inputs = inputs_of(one, "mixed")
    none, base = (
        answer(Steered(one.pair, stable(method=method)), inputs, greedy(min_new_tokens=6)).ids
        for method in ("none", "base")
    )
    assert not torch.equal(none, base)


def test_a_steered_answer_is_decoded_from_what_was_optimised(one: Loaded) -> None:
    inputs, steered = inputs_of(one, "mixed"), Steered(one.pair, stable(steps=3))
    result = steered.optimise(inputs)
    given = answer(steered, inputs, greedy())
    assert torch.equal(given.ids, steered.decode(inputs, result, **greedy()))
    assert [record.outcome.value for record in given.records] == outcomes(result)
    assert [record.loss_after for record in given.records] == [
        sample.loss_after for sample in result.samples
    ]


# --- sampled answers ----------------------------------------------------------------------------


def test_copies_have_records_and_seeds_of_their_own(one: Loaded) -> None:
    inputs, steered = inputs_of(one, "mixed"), Steered(one.pair, stable(steps=2))
    given = answer(steered, inputs, {**DRAWN, "num_return_sequences": 2}, seeds=[5, 6, 7])
    assert len(given.ids) == len(given.records) == 6
    assert [record.seed for record in given.records] == seeds_of_copies([5, 6, 7], 2)
    assert len({record.seed for record in given.records}) == 6
    assert [record.visual_tokens for record in given.records[::2]] == [
        record.visual_tokens for record in given.records[1::2]
    ]
    assert not torch.equal(given.new[::2], given.new[1::2])


@pytest.mark.parametrize("method", ["replay", "none"])
def test_copies_are_those_of_answering_twice_in_another_batch(one: Loaded, method: Any) -> None:
    steered = Steered(one.pair, stable(steps=2, method=method))
    together = answer(
        steered, inputs_of(one, "mixed"), {**DRAWN, "num_return_sequences": 2}, seeds=[5, 6, 7]
    )
    for row, single in enumerate(one.singles("mixed")):
        for copy in (0, 1):
            number = 2 * row + copy
            seed = together.records[number].seed
            assert seed is not None
            alone = answer(steered, dict(single), DRAWN, seeds=[seed])
            assert alone.records[0].seed == seed
            assert torch.equal(alone.new[0], together.new[number])


def test_without_seeds_they_follow_from_the_prompts(one: Loaded) -> None:
    inputs, steered = inputs_of(one, "mixed"), Steered(one.pair, stable(method="none", seed=4))
    given = answer(steered, inputs, DRAWN)
    assert [record.seed for record in given.records] == steered.seeds(inputs)
    assert torch.equal(given.ids, answer(steered, inputs, DRAWN, seeds=steered.seeds(inputs)).ids)
    assert not torch.equal(given.ids, answer(steered, inputs, DRAWN, seeds=[1, 2, 3]).ids)


def test_the_models_own_settings_may_ask_for_sampling(one: Loaded, defaults: Any) -> None:
    inputs, steered = inputs_of(one, "mixed"), Steered(one.pair, stable(method="none"))
    expected = answer(steered, inputs, DRAWN, seeds=[5, 6, 7]).ids
    left = {name: value for name, value in DRAWN.items() if name != "do_sample"}
    defaults.do_sample = True
    before = torch.get_rng_state()
    assert torch.equal(answer(steered, inputs, left, seeds=[5, 6, 7]).ids, expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seeds", [[], [1, 2], [1, 2, 3, 4]])
@pytest.mark.parametrize("method", ["none", "replay"])
def test_another_number_of_seeds_than_prompts_is_refused(
    one: Loaded, method: Any, seeds: list[int]
) -> None:
    steered = Steered(one.pair, stable(steps=1, method=method))
    with pytest.raises(UsageError, match=f"^{len(seeds)} seeds came for a batch of 3 samples"):
        answer(steered, inputs_of(one, "mixed"), greedy(), seeds=seeds)


# --- why an answer ended ------------------------------------------------------------------------


def ended(one: Loaded, **generation: Any) -> list[tuple[int | None, str | None, bool | None]]:
    """Return new tokens, reason and cut of the policy's answers to one prompt."""
    steered = Steered(one.pair, stable(method="none"))
    given = answer(steered, inputs_of(one), generation)
    return [(r.new_tokens, r.finish_reason, r.truncated) for r in given.records]


def a_later_token(one: Loaded) -> tuple[int, int]:
    """Return a token of the policy's greedy answer, and how many stand before it first does."""
    inputs = inputs_of(one)
    ids = one.policy.generate(**inputs, **greedy(min_new_tokens=6))
    new = ids[0, inputs["input_ids"].shape[1] :].tolist()
    place = next(i for i in range(1, len(new)) if new[i] not in new[:i])
    return new[place], place


def test_end_tokens_are_one_or_several(one: Loaded) -> None:
    token, place = a_later_token(one)
    never = one.policy.config.get_text_config().vocab_size - 1
    for ends in (token, [never, token], (token, never)):
        assert ended(one, **greedy(), eos_token_id=ends) == [(place, "stop", False)]
    assert ended(one, **greedy(), eos_token_id=never) == [(6, "length", True)]


@pytest.mark.parametrize("several", [False, True])
def test_end_tokens_are_the_models_own_where_none_are_given(
    one: Loaded, defaults: Any, several: bool
) -> None:
    token, place = a_later_token(one)
    defaults.eos_token_id = [383, token] if several else token
    assert ended(one, **greedy()) == [(place, "stop", False)]


def test_an_answer_without_an_end_is_cut_at_the_limit(one: Loaded, defaults: Any) -> None:
    assert ended(one, max_new_tokens=3, min_new_tokens=3) == [(3, "length", True)]
    defaults.max_new_tokens = 4
    assert ended(one, min_new_tokens=4) == [(4, "length", True)]


def test_rows_that_end_early_are_not_cut(one: Loaded) -> None:
    # A row that has ended is padded to the length of the longest.
    inputs = inputs_of(one, "mixed")
    prompt = inputs["input_ids"].shape[1]
    ids = one.policy.generate(**inputs, **greedy(min_new_tokens=6))[:, prompt:]
    first = int(ids[0, 0])
    given = answer(
        Steered(one.pair, stable(method="none")), inputs, {**greedy(), "eos_token_id": first}
    )
    for row, record in zip(ids.tolist(), given.records, strict=True):
        length = row.index(first) if first in row else len(row)
        reason = "stop" if first in row else "length"
        assert (record.new_tokens, record.finish_reason) == (length, reason)
    assert given.records[0].new_tokens == 0
    assert {record.finish_reason for record in given.records} == {"stop", "length"}


# --- a given result, and the seconds ------------------------------------------------------------


def test_a_given_result_is_not_optimised_again(
    one: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, steered = inputs_of(one, "mixed"), Steered(one.pair, stable(steps=2))
    expected = answer(steered, inputs, greedy())
    result = steered.optimise(inputs)

    def again(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("optimised again")

    monkeypatch.setattr(Steered, "optimise", again)
    with counted(base=one.pair.base.layers[0], tower=one.policy.model.visual) as calls:
        given = answer(steered, inputs, greedy(), result=result)
    assert calls == {"base": [], "tower": []}
    assert torch.equal(given.ids, expected.ids)
    assert [record.loss_after for record in given.records] == [
        record.loss_after for record in expected.records
    ]


def test_seconds_are_shared_out_among_the_answers(one: Loaded) -> None:
    inputs, steered = inputs_of(one, "mixed"), Steered(one.pair, stable(steps=2))
    result = steered.optimise(inputs)
    how = {**DRAWN, "num_return_sequences": 2}
    records = answer(steered, inputs, how, result=result).records
    assert all(record.seconds == records[0].seconds for record in records)
    assert sum(r.seconds.base for r in records) == pytest.approx(result.seconds.base)
    assert sum(r.seconds.loop for r in records) == pytest.approx(result.seconds.loop)
    assert min(r.seconds.decode for r in records) > 0
    assert {record.batch_size for record in records} == {3}


def test_records_of_a_result_alone_have_no_answer(one: Loaded) -> None:
    steered = Steered(one.pair, stable(steps=1))
    records = records_of(steered, steered.optimise(inputs_of(one, "mixed")))
    assert len(records) == 3
    assert {(r.finish_reason, r.new_tokens, r.seconds.decode) for r in records} == {(None, None, 0)}


# --- k answers, one descent ---------------------------------------------------------------------


def test_the_same_batch_is_optimised_once(one: Loaded) -> None:
    recent = Recent(Steered(one.pair, stable(steps=2)))
    with counted(layer=one.pair.policy.layers[0]) as calls:
        first = recent.optimise(inputs_of(one), seeds=[1])
        ran = len(calls["layer"])
        again = recent.optimise(inputs_of(one), seeds=[1])
        assert len(calls["layer"]) == ran > 0
    assert again.delta is first.delta
    assert again.samples == first.samples
    assert first.seconds.loop > 0
    assert again.seconds == Seconds()


def test_other_pixels_or_seeds_are_another_batch(one: Loaded) -> None:
    recent = Recent(Steered(one.pair, stable(steps=1)))
    first = recent.optimise(inputs_of(one), seeds=[1])
    changed = inputs_of(one)
    changed["pixel_values"] = changed["pixel_values"].clone()
    changed["pixel_values"][0, 0] += 0.5
    assert not torch.equal(recent.optimise(changed, seeds=[1]).delta, first.delta)
    assert recent.optimise(inputs_of(one), seeds=[1]).delta is not first.delta  # only the last
    held = recent.optimise(inputs_of(one), seeds=[1])
    assert recent.optimise(inputs_of(one), seeds=[2]).delta is not held.delta


def test_what_is_forgotten_is_optimised_again(one: Loaded) -> None:
    recent = Recent(Steered(one.pair, stable(steps=1)))
    first = recent.optimise(inputs_of(one), seeds=[1])
    recent.forget()
    again = recent.optimise(inputs_of(one), seeds=[1])
    assert again.delta is not first.delta
    assert torch.equal(again.delta, first.delta)


def test_digests_change_with_name_shape_dtype_and_value() -> None:
    base = {"a": torch.arange(4)}
    others = [
        {"b": torch.arange(4)},
        {"a": torch.arange(4).reshape(2, 2)},
        {"a": torch.arange(4).float()},
        {"a": torch.tensor([0, 1, 2, 4])},
        {"a": torch.arange(4).bfloat16()},
    ]
    digests = {content_digest(inputs, [0]) for inputs in (base, *others)}
    assert len(digests) == 6
    assert content_digest(base, [0]) == content_digest({"a": torch.arange(4)}, [0])
    assert content_digest(base, [0]) != content_digest(base, [1])
