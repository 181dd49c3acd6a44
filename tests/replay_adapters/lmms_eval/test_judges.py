"""A judge that is missing is refused before anything is answered; one that is there is asked."""

import re
from types import SimpleNamespace

import pytest

from replay_adapters.lmms_eval.judges import check_named, check_tasks, no_judge
from replay_core import UsageError
from tests.support.judge import listening

NAMES = ("API_TYPE", "OPENAI_API_KEY", "OPENAI_API_URL", "AZURE_API_KEY", "AZURE_ENDPOINT")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in (*NAMES, "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "MODEL_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def environment(monkeypatch):
    return lambda **values: [monkeypatch.setenv(*pair) for pair in values.items()]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "OPENAI_API_KEY is not set"),
        ({"OPENAI_API_KEY": "none"}, "OPENAI_API_KEY=none"),
        ({"OPENAI_API_KEY": "YOUR_API_KEY"}, "OPENAI_API_KEY=YOUR_API_KEY"),
        ({"OPENAI_API_URL": "http://localhost:1/v1"}, "OPENAI_API_KEY is not set"),
        ({"API_TYPE": "azure", "OPENAI_API_KEY": "sk-1"}, "AZURE_API_KEY is not set"),
        ({"OPENAI_API_KEY": "x", "OPENAI_API_URL": "judge"}, "OPENAI_API_URL=judge is no address"),
        ({"OPENAI_API_KEY": "x", "OPENAI_API_URL": "http://127.0.0.1:1/v1"}, "does not answer"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told(environment, given, told):
    environment(**given)
    assert told in no_judge()


def test_a_judge_that_can_be_asked_passes(environment):
    environment(OPENAI_API_KEY="sk-1")
    assert no_judge() is None
    with listening(str) as judge:
        environment(OPENAI_API_KEY="none", OPENAI_API_URL=judge.url)
        assert no_judge() is None
    assert "does not answer" in no_judge()
    environment(API_TYPE="bedrock")
    assert no_judge() is None


def test_a_key_in_a_file_of_the_working_directory_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "")  # so that what is read is undone
    monkeypatch.delenv("OPENAI_API_KEY")
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-2\n")
    assert no_judge() is None


def test_a_benchmark_without_its_judge_names_the_task_with_rules():
    with pytest.raises(UsageError) as refused:
        check_named(["mmmu_val", "mathvision_reason_test"])
    told = str(refused.value)
    assert told.startswith("the answers to mathvision_reason_test are scored by a judge, but ")
    assert "mathvision_reason_test_reasoning" in told.rpartition("by rules: ")[2]
    check_named(["mmmu_val", "nobody_knows"])


def task(*metrics):
    listed = [{"metric": name} for name in metrics]
    return SimpleNamespace(config=SimpleNamespace(metric_list=listed))


def test_any_task_is_known_by_its_metrics_in_groups_too():
    check_tasks({"a": task("acc_score"), "group": {"b": task("average")}})
    for judged in ("gpt_eval_score", "llm_as_judge_eval"):
        with pytest.raises(UsageError, match="the answers to b are scored by a judge"):
            check_tasks({"group": {"b": task("acc", judged)}})


def test_it_is_refused_on_the_command_line_before_weights_are_read(lmms_eval_command):
    task = "mathvista_testmini_format"
    command = lmms_eval_command("qwen2_vl_replay", "pair=mm_eureka_7b", task)
    ended = command.run()
    assert ended.code == 2, ended.output
    assert not list(ended.folder.iterdir())
    last = ended.output.strip().splitlines()[-1]
    assert re.search("mathvista_testmini_format are scored by a judge, but OPENAI_API_KEY", last)


def test_a_task_of_ones_own_is_refused_before_it_is_answered_or_asks_its_judge(
    several_lmms_evals, tiny_pairs, environment
):
    pair = tiny_pairs["qwen2_5_vl"]
    asked = f"pretrained={pair.policy},replay_base={pair.base},max_pixels=50176,replay_method=none"
    line = ("launcher", "qwen2_vl_replay", asked, "replay_test_judged", "--limit", "2")
    with listening(lambda text: "yes") as judge:
        environment(OPENAI_API_KEY="none", MODEL_VERSION="stand-in", OPENAI_API_URL=judge.url)
        (ended,) = several_lmms_evals([line])
        assert ended.code == 0, ended.output
        (scores,) = ended.results["results"].values()
        assert scores["gpt_eval_score,none"] == 1
        assert [one["model"] for one in judge.asked] == ["stand-in"] * 2
    environment(OPENAI_API_URL="")
    (ended,) = several_lmms_evals([line])
    assert ended.code == 2, ended.output
    assert "replay_test_judged are scored by a judge, but OPENAI_API_KEY=none" in ended.output
    assert not list(ended.folder.rglob("*_results.json"))
    assert "Model Responding" not in ended.output
