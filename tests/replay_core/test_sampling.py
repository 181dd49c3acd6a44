"""A row's draws are its own: neither its neighbours nor the global stream move them."""

import pytest
import torch

from replay_core import UsageError
from replay_core.sampling import SeededRows
from replay_core.seeds import stable_seed
from tests.replay_core.helpers import Loaded

PROBABILITIES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25] * 4])


def drawn(seeds: list[int], probabilities: torch.Tensor, times: int = 40) -> list[list[int]]:
    with SeededRows(seeds):
        many = [torch.multinomial(probabilities, num_samples=1)[:, 0] for _ in range(times)]
    return torch.stack(many, 1).tolist()


def test_a_row_draws_the_same_in_any_company() -> None:
    together = drawn([5, 6, 7], PROBABILITIES)
    assert drawn([7, 5], PROBABILITIES[[2, 0]]) == [together[2], together[0]]
    assert drawn([6], PROBABILITIES[1:2]) == [together[1]]
    assert drawn([8], PROBABILITIES[1:2]) != [together[1]]


def test_a_row_is_what_its_own_generator_draws() -> None:
    generator = torch.Generator().manual_seed(5)
    alone = [int(torch.multinomial(PROBABILITIES[0], 1, generator=generator)) for _ in range(40)]
    assert drawn([5], PROBABILITIES[:1]) == [alone]


def test_draws_follow_the_probabilities() -> None:
    (many,) = drawn([1], PROBABILITIES[:1], 4000)
    shares = torch.bincount(torch.tensor(many), minlength=4) / 4000
    torch.testing.assert_close(shares, PROBABILITIES[0], rtol=0, atol=0.03)


def test_copies_of_a_prompt_have_seeds_of_their_own() -> None:
    copies = drawn([5, 6], PROBABILITIES[[0, 0, 1, 1]])
    assert copies[0] != copies[1]
    assert copies[1] == drawn([stable_seed(5, 1)], PROBABILITIES[:1])[0]


def test_the_global_stream_is_neither_read_nor_moved() -> None:
    state = torch.get_rng_state()
    first = drawn([5], PROBABILITIES[:1])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert drawn([5], PROBABILITIES[:1]) == first
    torch.set_rng_state(state)
    torch.multinomial(PROBABILITIES, 1)
    assert not torch.equal(torch.get_rng_state(), state)


def test_sampled_answers_do_not_depend_on_the_batch(one: Loaded) -> None:
    how = {"do_sample": True, "temperature": 1.0, "min_new_tokens": 6, "max_new_tokens": 6}
    with SeededRows([1, 2, 3]):
        together = one.policy.generate(**one.batch("mixed"), **how)[:, -6:]
    for row, single in enumerate(one.singles("mixed")):
        with SeededRows([row + 1]):
            assert torch.equal(one.policy.generate(**single, **how)[:, -6:], together[[row]])


@pytest.mark.parametrize("seeds", [[], [1, 2], [1, 2, 3, 4]])
def test_rows_that_are_no_multiple_of_the_seeds_are_refused(seeds: list[int]) -> None:
    with pytest.raises(UsageError, match=f"^{len(seeds)} seeds came for 3 rows of answers"):
        drawn(seeds, PROBABILITIES, 1)
