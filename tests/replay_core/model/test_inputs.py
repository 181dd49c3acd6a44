"""What generate takes, split into inputs and options."""

import torch

from replay_core.model.inputs import split_arguments
from tests.replay_core.helpers import Loaded


def test_arguments_are_split_by_what_the_forward_takes(one: Loaded) -> None:
    options = {"max_new_tokens": 3, "use_cache": True, "my_tensor": torch.ones(1)}
    batch = dict(one.batch("one_image"))
    inputs, generation = split_arguments(one.pair.policy, {**batch, **options})
    assert inputs.keys() == batch.keys()
    assert generation.keys() == options.keys()


def test_seconds_that_came_as_a_list_are_an_input_too(one: Loaded) -> None:
    batch = dict(one.batch("clip"))
    seconds = batch["second_per_grid_ts"]
    inputs, generation = split_arguments(
        one.pair.policy, {**batch, "second_per_grid_ts": seconds.tolist(), "eos_token_id": [1, 2]}
    )
    assert torch.equal(inputs["second_per_grid_ts"], seconds)
    assert generation == {"eos_token_id": [1, 2]}
