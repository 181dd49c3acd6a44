"""The embedded agent through the real command line: it zooms, reads the crop, and is scored."""

import json

import pytest

from replay_adapters.settings.run_files import read_run_file
from tests.replay_adapters.conftest import Ended


@pytest.fixture(scope="module")
def ran(several_lmms_evals) -> list[Ended]:
    line = ("launcher", "qwen2_vl_replay", "pair=demo_agent,replay_method={}", "replay_zoom")
    arms = [(*line[:2], line[2].format(method), line[3]) for method in ("replay", "none")]
    return several_lmms_evals([(*arm, "--limit", "6", "--batch_size", "3") for arm in arms])


def test_conversations_are_whole_and_right(ran):
    for ended in ran:
        assert ended.code == 0, ended.output
        (scores,) = ended.results["results"].values()
        assert scores["accuracy,none"] >= 5 / 6
        assert scores["zoomed,none"] == 1


def test_each_turn_has_its_record_and_the_crop_its_tokens(ran):
    for sample in ran[0].samples.values():
        first, second = sample["replay"]
        assert (first["turn"], second["turn"]) == (0, 1)
        left, top, right, bottom = first["tool"]["box"]
        assert (right - left, bottom - top) == (28, 28)
        assert first["tool"]["crop"] == [4 * edge for edge in (left, top, right, bottom)]
        assert (first["visual_tokens"], second["visual_tokens"]) == (16, 32)
        assert second["answer"] == sample["target"]


def test_the_table_that_make_demo_agent_runs_is_of_this_pair():
    table = read_run_file("configs/pairs/demo_agent/run.yaml")
    assert [row.pair for row in table.rows] == ["demo_agent"]
    assert set(table.arms) == {"none", "replay", "random_x", "base"}


def test_the_policy_is_an_adapter_that_names_its_base_without_a_path_of_a_machine():
    with open("configs/pairs/demo_agent/policy/adapter_config.json") as file:
        assert json.load(file)["base_model_name_or_path"] == "../base"
