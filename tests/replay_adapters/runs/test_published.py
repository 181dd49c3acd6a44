"""The paper's numbers: their digits, whose they are, and what is said beside them."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from replay_adapters.runs.published import published
from replay_adapters.runs.run import Item, RunLog
from replay_adapters.settings.benchmarks import benchmarks
from replay_adapters.settings.pairs import read_pair
from replay_adapters.settings.resources import resource
from replay_core import ReplayConfig

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
# The paper's tables, typed from the paper once more; RLVR → + replay.
COLUMNS = (
    *("mathverse", "mathvision", "mathvista", "dynamath"),
    *("wemath", "logicvista", "mmmu", "mmmu_pro"),
)
TABLE_2 = {
    "mmr1_math_7b": "41.1→43.3 32.6→33.9 71.0→71.9 53.8→54.2 "
    "40.7→41.8 43.6→44.5 56.7→58.7 41.3→41.3",
    "mm_eureka_7b": "45.1→47.7 30.6→31.5 73.0→73.5 51.8→52.4 "
    "36.8→38.0 49.2→51.0 58.7→62.0 39.5→40.0",
    "vl_rethinker_7b": "47.0→49.2 30.3→33.2 72.0→72.4 54.7→54.9 "
    "34.8→36.7 46.1→49.7 58.7→60.0 41.7→42.7",
    "mm_eureka_32b": "50.5→52.4 35.2→35.5 72.1→74.0 62.1→61.8 "
    "36.9→37.6 52.8→54.6 59.3→63.2 49.6→51.0",
}
BASE_ROW = "41.1 25.5 69.1 53.2 24.5 35.6 58.6 38.3"
TABLE_3 = {"hrbench4k": "53.7→56.3", "hrbench8k": "53.5→53.8"}
TABLE_4 = {
    "videommmu": "49.8→53.8",
    "mlvu": "55.7→57.4",
    "mmvu": "64.2→65.0",
    "videoholmes": "36.5→40.9",
}
# Table 1, on MathVerse, MathVision and WeMath: RLVR, low, high.
TABLE_1 = {
    "mm_eureka_7b": "45.1/30.6/36.8 45.1/31.6/36.6 42.1/27.6/32.8",
    "vl_rethinker_7b": "47.0/30.3/34.8 47.5/33.5/35.3 44.4/29.7/34.3",
}
# Table 5: threshold → scores at step sizes 10, 20 and 40.
TABLE_5 = {
    "mmr1_math_7b": {0.4: "43.3/41.8/42.1", 0.2: "42.3/42.5/40.7"},
    "mm_eureka_7b": {0.2: "45.4/46.1/47.7", 0.4: "47.1/47.5/46.5"},
}
# A task and metric of each benchmark that its number may stand beside.
TASKS = {
    "mathverse": ("mathverse_testmini_vision_only", "gpt_eval_score"),
    "mathvision": ("mathvision_reason_test_reasoning", "acc_score"),
    "mathvista": ("mathvista_testmini_cot_reasoning", "acc_score"),
    "dynamath": ("dynamath_reasoning", "dynamath_average"),
    "wemath": ("WeMath", "hit"),
    "logicvista": ("logicvista_reasoning", "acc_score"),
    "mmmu": ("MMMU_DEV_VAL", "validation"),
    "mmmu_pro": ("MMMU_Pro_10c", "hit"),
    "hrbench4k": ("hrbench4k", "cross"),
    "hrbench8k": ("HRBench8K", "cross"),
    "videommmu": ("VideoMMMU_16frame", "hit"),
    "mlvu": ("MLVU_MCQ_16frame", "score"),
    "videoholmes": ("video_holmes", "video_holmes_accuracy"),
}


def arrows(row: str) -> list[tuple[float, float]]:
    pairs = [cell.split("→") for cell in row.split()]
    return [(float(alone), float(replayed)) for alone, replayed in pairs]


def numbers(row: str) -> list[float]:
    return [float(number) for number in re.split(r"[ /]", row)]


def run(pair: str, benchmark: str = "mathverse", *, facts=None, **config) -> RunLog:
    """Return a run of a pair under a configuration, as both harnesses' files tell of it."""
    task, metric = TASKS[benchmark]
    files = read_pair(pair)
    settings = {
        "pair": pair,
        "policy": config.pop("policy", files.policy),
        "base": config.pop("base", files.base),
        "config": ReplayConfig(**config).model_dump(mode="json"),
    }
    task, metric = config.pop("task", task), config.pop("metric", metric)
    return RunLog("lmms-eval", task, metric, Path("f"), {0: Item(1.0)}, facts or {}, settings)


def score(pair: str, benchmark: str = "mathverse", **config) -> float | None:
    found = published(run(pair, benchmark, **config))
    return found and found.score


@pytest.mark.parametrize("pair", TABLE_2)
def test_table_2_stands_beside_policy_and_replay(pair):
    for benchmark, (alone, replayed) in zip(COLUMNS, arrows(TABLE_2[pair]), strict=True):
        assert score(pair, benchmark, method="none") == alone
        known = (
            {"threshold": 0.2, "step_size": 40}
            if (pair, benchmark) == ("mm_eureka_7b", "mathverse")
            else {}
        )
        assert score(pair, benchmark, method="replay", **known) == replayed


def test_the_bases_row_stands_beside_the_base_alone():
    for pair in ("mmr1_math_7b", "mm_eureka_7b", "vl_rethinker_7b"):
        for benchmark, number in zip(COLUMNS, numbers(BASE_ROW), strict=True):
            assert score(pair, benchmark, method="base") == number
    assert score("mm_eureka_32b", method="base") is None


@pytest.mark.parametrize(("pair", "rows"), [("deepeyes_7b", TABLE_3), ("video_r1_7b", TABLE_4)])
def test_tables_3_and_4_are_of_injection(pair, rows):
    for benchmark, row in rows.items():
        if benchmark not in TASKS:
            continue
        ((alone, replayed),) = arrows(row)
        assert score(pair, benchmark, method="none") == alone
        assert score(pair, benchmark, method="inject", boundary="reference") == replayed
        beside = published(run(pair, benchmark, method="replay"))
        assert beside.score == replayed
        assert "method=inject (here replay)" in beside.notes[0]


@pytest.mark.parametrize("pair", TABLE_1)
def test_table_1_stands_beside_injection_low_and_high(pair):
    parts = TABLE_1[pair].split()
    for name, column in (("mathverse", 0), ("mathvision", 1), ("wemath", 2)):
        alone, low, high = (numbers(part)[column] for part in parts)
        assert score(pair, name, method="none") == alone
        assert score(pair, name, method="inject", select="low") == low
        assert score(pair, name, method="inject", select="high") == high
    assert score(pair, "mmmu", method="inject") is None


@pytest.mark.parametrize("pair", TABLE_5)
def test_table_5_is_looked_up_by_threshold_and_step_size(pair):
    for threshold, row in TABLE_5[pair].items():
        for step_size, number in zip((10, 20, 40), numbers(row), strict=True):
            found = published(run(pair, threshold=threshold, step_size=step_size))
            assert found.score == number
            assert f"threshold={threshold}, step_size={step_size}, " in found.notes[0]


def test_every_digit_of_the_file_is_one_of_the_tables():
    table = yaml.safe_load((resource("configs") / "published.yaml").read_text(encoding="utf-8"))
    cells = {
        pair: dict(zip(COLUMNS, map(list, arrows(row)), strict=True))
        for pair, row in TABLE_2.items()
    }
    cells["deepeyes_7b"] = {name: list(arrows(row)[0]) for name, row in TABLE_3.items()}
    cells["video_r1_7b"] = {name: list(arrows(row)[0]) for name, row in TABLE_4.items()}
    assert table["results"] == cells
    assert table["base"] == {QWEN: dict(zip(COLUMNS, numbers(BASE_ROW), strict=True))}
    injected = {
        pair: {
            name: [numbers(part)[column] for part in row.split()]
            for column, name in enumerate(("mathverse", "mathvision", "wemath"))
        }
        for pair, row in TABLE_1.items()
    }
    assert table["injection"] == injected
    grid = {
        pair: {
            threshold: dict(zip((10, 20, 40), numbers(row), strict=True))
            for threshold, row in rows.items()
        }
        for pair, rows in TABLE_5.items()
    }
    assert table["grid"] == grid


def test_published_settings_are_those_of_the_released_runs():
    """Section "Hyper-parameters": layers, threshold, step size; 25 steps; pixels; 2,048 tokens."""
    table = yaml.safe_load((resource("configs") / "published.yaml").read_text(encoding="utf-8"))
    assert table["settings"]["pairs"] == {
        "mmr1_math_7b": {"threshold": 0.4, "step_size": 10},
        "mm_eureka_7b": {"layers": 16, "threshold": 0.4, "step_size": 10},
        "vl_rethinker_7b": {"layers": 24, "threshold": 0.4, "step_size": 10},
    }
    assert table["settings"]["cells"] == {
        "mm_eureka_7b": {"mathverse": {"threshold": 0.2, "step_size": 40}}
    }
    assert table["settings"]["replay"]["steps"] == 25
    assert table["settings"]["replay"]["boundary"] == "reference"
    assert table["protocol"] == {
        "mmr1_math_7b": {"max_new_tokens": 2048},
        "mm_eureka_7b": {"max_new_tokens": 2048, "min_pixels": 3136, "max_pixels": 501760},
        "vl_rethinker_7b": {
            "max_new_tokens": 2048,
            "min_pixels": 256 * 28**2,
            "max_pixels": 1280 * 28**2,
        },
        "video_r1_7b": {"frames": 16},
    }


def test_the_settings_of_a_cell_stand_beside_it_and_what_the_run_has_otherwise():
    found = published(run("mm_eureka_7b", threshold=0.3, step_size=15, layers=12, steps=5))
    assert found.score == 47.7
    (note,) = found.notes[:1]
    for told in (
        "Table 2: ",
        "threshold=0.2 (here 0.3)",
        "step_size=40 (here 15.0)",
        "layers=16 (here 12)",
        "steps=25 (here 5)",
        "boundary=reference (here aligned)",
    ):
        assert told in note
    same = published(run("mm_eureka_7b", threshold=0.2, step_size=40, boundary="reference"))
    assert same.score == 47.7
    assert "here" not in same.notes[0]
    assert "threshold=0.2, step_size=40, layers=16, steps=25, boundary=reference" in same.notes[0]


@pytest.mark.parametrize(
    "other",
    [
        {"top_k": "full"},
        {"positions": "input"},
        {"keep": "best"},
        {"step_scaling": "tokens"},
        {"optimizer": "lbfgs"},
        {"tolerance": 0.01},
        {"thresholds": "release"},
        {"maximum": "image"},
        {"layers": (1, 2, 3)},
    ],
)
def test_every_other_setting_is_told_too(other):
    found = published(run("mm_eureka_7b", **{"threshold": 0.2, "step_size": 40, **other}))
    ((name, value),) = other.items()
    value = list(value) if isinstance(value, tuple) else value
    assert re.search(rf"{name}=\w+ \(here {re.escape(str(value))}\)", found.notes[0])


def test_a_step_size_for_other_scaling_is_no_cell_of_table_5():
    found = published(run("mm_eureka_7b", threshold=0.4, step_size=10, step_scaling="tokens"))
    assert found.score == 47.7
    assert "step_scaling=published (here tokens)" in found.notes[0]


@pytest.mark.parametrize("layers", ["auto", 16, tuple(range(16))])
def test_the_first_16_layers_are_so_however_they_are_named(layers):
    found = published(run("mm_eureka_7b", threshold=0.4, step_size=10, layers=layers))
    assert "layers=16," in found.notes[0]


def test_what_the_paper_does_not_say_is_said():
    (note,) = published(run("mm_eureka_32b", boundary="reference")).notes
    assert note.endswith("the paper does not say its threshold, step_size, layers")
    assert "does not say its layers" in published(run("mmr1_math_7b")).notes[0]
    assert (
        "does not say its layers, boundary"
        in published(run("mm_eureka_7b", method="inject")).notes[0]
    )
    assert "strict, loose or by item" in published(run("mm_eureka_7b", "wemath")).notes[-1]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"select": "random"}, "none with method=replay, select=random"),
        ({"select": "high"}, "none with method=replay, select=high"),
        ({"method": "inject", "select": "all"}, "none with method=inject, select=all"),
        ({"policy": "me/other"}, "policy is FanqingM/MM-Eureka-Qwen-7B .here me/other"),
        ({"base": "me/other"}, "base is Qwen/Qwen2.5-VL-7B-Instruct .here me/other"),
        ({"method": "base", "base": "me/other"}, "base is Qwen/.* .here me/other"),
        ({"method": "none", "policy": "me/other"}, "policy is .* .here me/other"),
    ],
)
def test_another_arm_or_model_has_no_number_and_the_reason_is_told(config, told):
    found = published(run("mm_eureka_7b", **config))
    assert found.score is None
    assert re.search(told, found.notes[0])


def test_the_policy_alone_does_not_hang_on_the_base():
    assert score("mm_eureka_7b", method="none", base="me/other") == 45.1


def test_a_pair_is_known_by_its_policy_too():
    by_hand = run("vl_rethinker_7b_release", method="none")
    assert published(by_hand).score == 47.0
    by_hand.settings["pair"] = "VL-Rethinker-7B"
    assert published(by_hand).score == 47.0
    assert (
        published(RunLog("x", "MathVision", "hit", Path("f"), {}, {}, {"policy": "me/other"}))
        is None
    )
    stock = {"policy": "FanqingM/MM-Eureka-Qwen-7B"}
    assert published(RunLog("x", "MathVision", "hit", Path("f"), {}, {}, stock)).score == 30.6


@pytest.mark.parametrize(
    ("task", "metric", "told"),
    [
        ("hrbench4k", "average", "HR-Bench 4K's FCP half: --metric cross"),
        ("hrbench4k", "single", "HR-Bench 4K's FCP half: --metric cross"),
        ("HRBench8K", "hit", "HR-Bench 8K's FCP half: --metric cross"),
    ],
)
def test_the_fcp_half_stands_beside_nothing_else(task, metric, told):
    found = published(RunLog("x", task, metric, Path("f"), {}, {}, {"pair": "deepeyes_7b"}))
    assert found.score is None
    assert told in found.notes[0]


@pytest.mark.parametrize(
    ("pair", "task", "metric", "told"),
    [
        ("mm_eureka_7b", "logicvista_reasoning", "format_score", "--metric acc_score"),
        ("mm_eureka_7b", "MMMU_DEV_VAL", "hit", "validation split: --metric validation"),
        ("video_r1_7b", "mmvu_val", "accuracy", "multiple-choice items: no metric of this task"),
        ("video_r1_7b", "video_mmmu_adaptation", "mmmu_acc", "three parts together: no metric"),
        ("video_r1_7b", "video_holmes", "video_holmes_SR", "--metric video_holmes_accuracy"),
    ],
)
def test_no_number_stands_beside_another_metric_or_part(pair, task, metric, told):
    found = published(RunLog("x", task, metric, Path("f"), {}, {}, {"pair": pair}))
    assert found.score is None
    assert told in found.notes[0]


def test_other_pixels_lengths_and_items_are_told():
    facts = {
        "pixels": {"min_pixels": "3136", "max_pixels": "1003520"},
        "decoding": {"generation": {"max_new_tokens": 8192}},
    }
    found = published(run("mm_eureka_7b", method="none", facts=facts))
    assert found.score == 45.1
    assert found.notes == (
        "Table 2, the policy alone",
        "made with max_new_tokens=2048 (here 8192), max_pixels=501760 (here 1003520)",
    )
    alike = {"pixels": {"nframe": "16"}, "decoding": {}}
    assert len(published(run("video_r1_7b", "mlvu", method="none", facts=alike)).notes) == 1
    few = RunLog(
        *("x", "MathVision", "hit", Path("f"), {}, {}),
        settings={"pair": "mm_eureka_32b"},
        asked=100,
        whole=3040,
    )
    assert published(few).notes[-1] == "of all items (here the first 100 of 3040 documents)"


def test_every_task_that_is_named_is_one_of_a_harness():
    every = {name: task for each in benchmarks().values() for name, task in each.tasks.items()}
    named = set(every)
    (package,) = find_spec("lmms_eval").submodule_search_locations
    tasks = Path(package) / "tasks"
    ours = resource("tasks").glob("*/*.yaml")
    files = [*tasks.glob("*/*yaml"), *tasks.glob("*/reasoning/*.yaml"), *ours]
    found = re.compile(r"^task: *[\"']?([\w-]+)", re.MULTILINE)
    known = {name for file in files for name in found.findall(file.read_text(encoding="utf-8"))}
    sets = {name for name, task in every.items() if task.harness == "vlmevalkit"}
    assert named - known == sets
    source = "".join(
        file.read_text(encoding="utf-8")
        for file in (tasks.parents[1] / "vlmeval" / "dataset").glob("*.py")
    )
    for name in sets:
        assert f"'{name.removesuffix('_16frame').removesuffix('_COT')}" in source.replace('"', "'")
