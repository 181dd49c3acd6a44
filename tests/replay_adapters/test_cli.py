"""The command ``activation-replay``: what it says of pairs, to people and to programs."""

import json

import pytest
import yaml
from typer.testing import CliRunner, Result

from replay_adapters.cli import app
from replay_adapters.settings.pairs import PairFile, pair_names, read_pair
from replay_core import UsageError


def told(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@pytest.mark.parametrize("name", ["mm_eureka_7b", "video_r1_7b", "demo", "mmr1_3b_rl"])
def test_one_pair_is_shown_whole_with_what_is_not_known(name: str):
    shown = told("pairs", name).stdout
    pair = read_pair(name)
    file = yaml.safe_load(shown)
    assert PairFile(**file).model_dump(exclude={"name", "policy", "base", "processor"}) == (
        pair.model_dump(exclude={"name", "policy", "base", "processor"})
    )
    last = shown.strip().splitlines()[-1].removeprefix("# not given: ").split(", ")
    assert {*last} == {*PairFile.model_fields} - {*file, "name"}


def test_programs_get_every_field_of_one_pair_and_of_all():
    one = json.loads(told("pairs", "vl_rethinker_7b", "--json").stdout)
    assert one == read_pair("vl_rethinker_7b").model_dump(mode="json")
    assert {*one} == {*PairFile.model_fields}
    every = json.loads(told("pairs", "--json").stdout)
    assert [pair["name"] for pair in every] == pair_names()
    assert one in every


def test_the_list_names_policy_and_base_of_every_pair():
    lines = told("pairs").stdout.splitlines()
    assert len(lines) == len(pair_names())
    (line,) = [line for line in lines if line.startswith("mm_eureka_7b ")]
    assert line.split() == [
        *("mm_eureka_7b", "FanqingM/MM-Eureka-Qwen-7B", "←", "Qwen/Qwen2.5-VL-7B-Instruct")
    ]


def test_a_pair_that_is_not_there_is_one_sentence():
    with pytest.raises(UsageError, match=r"pair=mm_eureka_7 is neither .* did you mean 'mm_eure"):
        told("pairs", "mm_eureka_7")
