"""The embedded video pair through the real command line: clips are read, compared and scored."""

import json

import pytest

from replay_adapters.settings.pairs import read_pair
from replay_adapters.settings.resources import resource
from replay_adapters.settings.run_files import read_run_file
from tests.replay_adapters.conftest import Ended


@pytest.fixture(scope="module")
def ran(several_lmms_evals) -> list[Ended]:
    arms = [f"pair=demo_video,replay_method={method}" for method in ("replay", "none")]
    more = ("replay_clips", "--limit", "12", "--batch_size", "6")
    return several_lmms_evals([("launcher", "qwen2_5_vl_replay", arm, *more) for arm in arms])


def test_clips_are_answered_right_in_the_protocols_format(ran):
    lines = (resource("tasks") / "replay_clips" / "test.jsonl").read_text().splitlines()
    for ended in ran:
        assert ended.code == 0, ended.output
        (scores,) = ended.results["results"].values()
        assert scores["accuracy,none"] >= 10 / 12
        for number, sample in ended.samples.items():
            (record,) = sample["replay"]
            first, last = json.loads(lines[number])["corners"]
            if record["answer"] == sample["target"]:
                thought = f"<think>{first} to {last}</think>"
                assert record["response"] == f"{thought}<answer>{sample['target']}</answer>"


def test_replay_ran_on_the_visual_tokens_of_all_frames(ran):
    for record in ran[0].records:
        assert record["outcome"] == "applied"
        assert record["visual_tokens"] == 16
        assert record["loss_after"] < record["loss_before"]


def test_the_table_that_make_demo_video_runs_is_of_this_pair():
    table = read_run_file("configs/pairs/demo_video/run.yaml")
    assert [row.pair for row in table.rows] == ["demo_video"]
    assert set(table.arms) == {"none", "replay", "random_x", "base"}


def test_the_protocols_words_and_frames_are_video_r1s():
    ours, published = (read_pair(name).protocol for name in ("demo_video", "video_r1_7b"))
    for field in ("question_template", "question_type", "max_num_frames"):
        assert getattr(ours, field) == getattr(published, field)
    kind = "multiple choice"
    assert ours.type_suffixes[kind] == published.type_suffixes[kind]


def test_the_policy_is_an_adapter_that_names_its_base_without_a_path_of_a_machine():
    with open("configs/pairs/demo_video/policy/adapter_config.json") as file:
        assert json.load(file)["base_model_name_or_path"] == "../base"
