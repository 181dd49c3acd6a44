"""Every pair file has a name for every arm, and no two share one."""

import pytest

from replay_adapters.settings.options import resolve
from replay_adapters.settings.pairs import pair_names, read_pair
from replay_adapters.vlmevalkit.names import arguments_of, model_names
from replay_core import UsageError

STOCK = frozenset({"GPT4o", "Qwen2.5-VL-7B-Instruct"})


def test_every_pair_has_a_name_of_its_own_for_every_arm():
    names = model_names()
    assert len(names) == 4 * len(pair_names())
    assert {arguments["pair"] for arguments in names.values()} == set(pair_names())
    for name, arguments in names.items():
        assert resolve(arguments).config.method == arguments["replay_method"]
        assert name.endswith("-" + arguments["replay_method"])


def test_names_are_the_policies_own():
    assert model_names()["MM-Eureka-Qwen-7B-none"] == {
        "pair": "mm_eureka_7b",
        "replay_method": "none",
    }
    assert model_names()["demo-replay"]["pair"] == "demo"
    for name, arguments in model_names().items():
        pair = read_pair(arguments["pair"])
        title = name.rpartition("-")[0]
        assert title in (pair.display, arguments["pair"], pair.policy.rpartition("/")[2])


def test_a_stock_name_is_the_harness_own_and_any_other_is_refused_with_a_hint():
    assert arguments_of("GPT4o", STOCK) is None
    with pytest.raises(UsageError, match="did you mean MM-Eureka-Qwen-7B-replay"):
        arguments_of("MM-Eureka-Qwen-7B-repaly", STOCK)
    with pytest.raises(UsageError, match="followed by -replay, -none, -base, -inject"):
        arguments_of("something else", STOCK)
