"""Seeds depend on what is asked for, and on nothing else."""

import hashlib

import pytest
import torch

from replay_core import UsageError
from replay_core.digest import token_digest
from replay_core.seeds import generators, stable_seed


def test_a_seed_follows_from_its_parts_in_every_process() -> None:
    # Python's own hash() of a text differs between processes.
    head = hashlib.sha256(b"3\x1fdoc").digest()[:4]
    assert stable_seed(3, "doc") == int.from_bytes(head, "little") // 2


def test_seeds_fit_torch_and_numpy() -> None:
    assert all(0 <= stable_seed(n) < 2**31 for n in range(200))


def test_seeds_differ_where_the_parts_differ() -> None:
    parts = [(0, "a"), (1, "a"), (0, "b"), ("a", 0), ("0a",), (0, "a", ""), (1, 23), (12, 3)]
    assert len({stable_seed(*part) for part in parts}) == len(parts)


def test_a_digest_changes_with_every_token_and_with_the_rows() -> None:
    rows = [[[1, 23]], [[12, 3]], [[1, 2, 3]], [[1], [23]], [[23, 1]], [[1, 24]], [[1, 23], []]]
    digests = {token_digest(*map(torch.tensor, row)) for row in rows}
    assert len(digests) == len(rows)
    assert all(len(text) == 16 for text in digests)


def test_a_digest_does_not_depend_on_the_integer_type() -> None:
    ids = torch.tensor([5, 7])
    assert token_digest(ids) == token_digest(ids.int())


def test_each_sample_has_a_generator_of_its_own_seed() -> None:
    drawn = [torch.rand(3, generator=generator).tolist() for generator in generators([7, 9], 2)]
    assert drawn == [
        torch.rand(3, generator=torch.Generator().manual_seed(n)).tolist() for n in (7, 9)
    ]


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3]])
def test_another_number_of_seeds_is_refused(seeds: list[int]) -> None:
    with pytest.raises(UsageError, match=rf"^{len(seeds)} seeds came for a batch of 2 samples \("):
        generators(seeds, 2)
