"""Properties of the masks, for any entropies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replay_core.selection import low_entropy, select

SAMPLES = 3
ENTROPIES = st.lists(st.tuples(st.integers(0, SAMPLES - 1), st.floats(0, 12, width=32)), min_size=1)
THRESHOLDS = st.floats(0.01, 1)
often = settings(max_examples=60, deadline=None, derandomize=True)


def tensors(pairs: list[tuple[int, float]]) -> tuple[Tensor, Tensor]:
    owner = torch.tensor([sample for sample, _ in pairs])
    return torch.tensor([value for _, value in pairs]), owner


def chosen(pairs: list[tuple[int, float]], how: str, threshold: float, seed: int = 0) -> Tensor:
    entropies, owner = tensors(pairs)
    generators = [torch.Generator().manual_seed(seed + n) for n in range(SAMPLES)]
    low = low_entropy(entropies, owner, threshold)
    return select(low, entropies, owner, how=how, generators=generators)


def test_low_takes_what_is_at_most_gamma_times_the_maximum() -> None:
    entropies = torch.tensor([1.0, 2.0, 2.5, 4.0])  # 2 is 0.5 * 4 exactly
    low = low_entropy(entropies, torch.zeros(4, dtype=torch.long), 0.5)
    assert low.tolist() == [True, True, False, False]


@often
@given(ENTROPIES, THRESHOLDS)
def test_the_maximum_is_taken_per_sample(pairs: list[tuple[int, float]], threshold: float) -> None:
    together = chosen(pairs, "low", threshold)
    for sample in range(SAMPLES):
        mine = [pair for pair in pairs if pair[0] == sample]
        if mine:
            _, owner = tensors(pairs)
            assert torch.equal(together[owner == sample], chosen(mine, "low", threshold))


@often
@given(ENTROPIES, THRESHOLDS, THRESHOLDS)
def test_low_grows_with_the_threshold(
    pairs: list[tuple[int, float]], one: float, other: float
) -> None:
    smaller, larger = chosen(pairs, "low", min(one, other)), chosen(pairs, "low", max(one, other))
    assert not (smaller & ~larger).any()


@often
@given(ENTROPIES)
def test_threshold_one_selects_all(pairs: list[tuple[int, float]]) -> None:
    assert chosen(pairs, "low", 1.0).all()


@often
@given(ENTROPIES, THRESHOLDS)
def test_high_is_the_complement_of_low(pairs: list[tuple[int, float]], threshold: float) -> None:
    assert torch.equal(chosen(pairs, "high", threshold), ~chosen(pairs, "low", threshold))


@often
@given(ENTROPIES, THRESHOLDS)
def test_all_ignores_the_threshold(pairs: list[tuple[int, float]], threshold: float) -> None:
    assert chosen(pairs, "all", threshold).all()


@often
@given(ENTROPIES, THRESHOLDS, st.integers(0, 1000))
def test_random_takes_as_many_per_sample_as_low(
    pairs: list[tuple[int, float]], threshold: float, seed: int
) -> None:
    _, owner = tensors(pairs)
    drawn, low = chosen(pairs, "random", threshold, seed), chosen(pairs, "low", threshold)
    for sample in range(SAMPLES):
        assert drawn[owner == sample].sum() == low[owner == sample].sum()


def test_random_follows_its_generator_and_not_the_entropies() -> None:
    pairs = [(0, float(value)) for value in range(1, 21)]
    first, again, other = (chosen(pairs, "random", 0.5, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, chosen(pairs[::-1], "random", 0.5, 0))


@pytest.mark.parametrize("how", ["low", "high", "all", "random"])
def test_a_sample_without_candidates_is_no_obstacle(how: str) -> None:
    assert chosen([(0, 1.0), (2, 3.0)], how, 0.5).shape == (2,)


@often
@given(ENTROPIES, THRESHOLDS, st.integers(0, 1000))
def test_matched_arms_take_the_smaller_number_of_low_and_high(
    pairs: list[tuple[int, float]], threshold: float, seed: int
) -> None:
    entropies, owner = tensors(pairs)
    low = chosen(pairs, "low", threshold)
    lowest, highest, drawn = (
        chosen(pairs, f"matched_{arm}", threshold, seed) for arm in ("low", "high", "random")
    )
    for sample in range(SAMPLES):
        mine = owner == sample
        count = int(min(low[mine].sum(), (~low)[mine].sum()))
        for arm in (lowest, highest, drawn):
            assert arm[mine].sum() == count
        ordered = entropies[mine].sort().values
        assert torch.equal(entropies[mine][lowest[mine]].sort().values, ordered[:count])
        top = ordered[len(ordered) - count :]
        assert torch.equal(entropies[mine][highest[mine]].sort().values, top)
