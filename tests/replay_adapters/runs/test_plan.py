"""Cells of the paper's tables: their settings, published numbers, command lines and estimates."""

import pytest
import yaml
from typer.testing import CliRunner

from replay_adapters.cli import app
from replay_adapters.runs.estimate import SIZES, Rates, estimate, size_of
from replay_adapters.runs.needs import _absent, _harness
from replay_adapters.runs.plan import Asking, cells
from replay_adapters.runs.table import planned
from replay_adapters.settings.resources import resource
from replay_adapters.settings.run_files import read_run_file, run_file_names
from replay_core import UsageError

PUBLISHED = yaml.safe_load((resource("configs") / "published.yaml").read_text("utf-8"))


def cells_of(name, tmp_path, harness="lmms-eval", **part):
    return cells(read_run_file(name), Asking(harness, tmp_path), **part)[0]


def of(found, pair, benchmark, arm):
    (cell,) = [c for c in found if (c.row.pair, c.benchmark, c.arm) == (pair, benchmark, arm)]
    return cell


def test_every_published_number_of_the_tables_is_a_cells(tmp_path):
    told = {c.published for n in run_file_names() for c in cells_of(n, tmp_path)}
    numbers = [n for rows in PUBLISHED["results"].values() for two in rows.values() for n in two]
    numbers += [n for r in PUBLISHED["injection"].values() for three in r.values() for n in three]
    numbers += [n for r in PUBLISHED["grid"].values() for row in r.values() for n in row.values()]
    assert set(numbers) <= told
    assert None not in told


@pytest.mark.parametrize(
    ("table", "pair", "benchmark", "arm", "published", "settings"),
    [
        ("table1", "mm_eureka_7b", "wemath", "high", 32.8, ("inject", "high", 0.4, 10.0)),
        ("table2", "mm_eureka_7b", "mathverse", "replay", 47.7, ("replay", "low", 0.2, 40.0)),
        ("table2", "mm_eureka_7b", "mmmu", "replay", 62.0, ("replay", "low", 0.4, 10.0)),
        ("table2", "mmr1_math_7b", "mathverse", "none", 41.1, ("none", "low", 0.4, 10.0)),
        ("table3", "deepeyes_7b", "hrbench4k", "replay", 56.3, ("inject", "low", 0.4, 10.0)),
        ("table4", "video_r1_7b", "mmvu", "replay", 65.0, ("inject", "low", 0.4, 10.0)),
        (
            "table5",
            "mmr1_math_7b",
            "mathverse",
            "threshold_0.2_step_40",
            40.7,
            ("replay", "low", 0.2, 40.0),
        ),
    ],
)
def test_a_cell_is_made_with_the_published_settings(
    tmp_path, table, pair, benchmark, arm, published, settings
):
    cell = of(cells_of(table, tmp_path), pair, benchmark, arm)
    config = cell.settings.config
    assert cell.published == published
    assert (config.method, config.select, config.threshold, config.step_size) == settings
    assert config.boundary == ("aligned" if arm == "none" else "reference")


def test_a_command_line_is_the_harnesss_own(tmp_path):
    cell = of(cells_of("table2", tmp_path), "mm_eureka_7b", "mathverse", "replay")
    words = cell.command
    assert words[1:5] == ["-m", "replay_adapters.lmms_eval.launcher", "--model", "qwen2_vl_replay"]
    typed = words[words.index("--model_args") + 1]
    assert typed.startswith("pair=mm_eureka_7b,replay_preset=table2_mathverse,replay_journal=")
    assert words[words.index("--tasks") + 1] == cell.task
    assert words[words.index("--output_path") + 1] == str(cell.folder)
    assert "lmms_eval --model qwen2_vl_replay" in cell.shown
    ours = cells_of("table2", tmp_path, "vlmevalkit", pairs=["mm_eureka_7b"], tasks=["mathverse"])
    assert [c.run_file()["data"] for c in ours] == [
        {
            "MathVerse_MINI_Vision_Only": {
                "class": "MathVerse",
                "dataset": "MathVerse_MINI_Vision_Only",
            }
        }
    ] * 2
    (model,) = ours[1].run_file()["model"].values()
    assert model["replay_preset"] == "table2_mathverse"


@pytest.mark.parametrize("harness", ["lmms-eval", "vlmevalkit"])
def test_other_options_have_another_folder(tmp_path, harness):
    changed = read_run_file("table5").model_copy(
        update={"arms": {"none": {"method": "none"}, "threshold_0.4_step_10": {"steps": 7}}}
    )
    folders = {c.folder.name for c in cells_of("table5", tmp_path, harness)}
    others = {c.folder.name for c in cells(changed, Asking(harness, tmp_path))[0]}
    same = {name for name in folders if name.startswith("none-")}
    assert folders & others == same
    assert len({name.rpartition("-")[2] for name in folders}) == 2 * 7


def test_other_settings_have_another_folder(tmp_path):
    table = read_run_file("table3")
    first, again, limited = (
        cells(table, asking)[0][0].folder
        for asking in (
            Asking("lmms-eval", tmp_path),
            Asking("lmms-eval", tmp_path),
            Asking("lmms-eval", tmp_path, limit=5),
        )
    )
    assert first == again != limited


def test_a_judges_key_is_neither_shown_nor_part_of_the_settings(tmp_path):
    def cell(*more):
        asking = Asking("vlmevalkit", tmp_path, more=("--judge", "gpt-4o-mini", *more))
        return cells(read_run_file("table5"), asking)[0][0]

    first, second = cell("--judge-key", "sk-one"), cell("--judge-key", "sk-two")
    assert first.folder == second.folder
    assert cell("--judge-key=sk-one").folder != cell().folder
    for each in (first, second, cell("--judge-key=sk-one")):
        assert "sk-" not in each.shown
        assert "$JUDGE_KEY" in each.shown
    assert first.command[-2:] == ["--judge-key", "sk-one"]


def test_a_part_is_taken_by_pair_benchmark_or_task(tmp_path):
    found = cells_of("table2", tmp_path, pairs=["mm_eureka_7b"], tasks=["mmmu_val", "wemath"])
    assert {c.benchmark for c in found} == {"mmmu", "wemath"}
    assert {c.row.pair for c in found} == {"mm_eureka_7b"}
    with pytest.raises(
        UsageError, match="--tasks mmmu_vol is not in the table; did you mean mmmu_val"
    ):
        cells_of("table2", tmp_path, tasks=["mmmu_vol"])
    with pytest.raises(UsageError, match="--pair demo is not in the table"):
        cells_of("table2", tmp_path, pairs=["demo"])


def test_what_a_harness_does_not_have_is_left_out_and_told(tmp_path):
    found, left_out = cells(read_run_file("table4"), Asking("vlmevalkit", tmp_path))
    assert left_out == ["video_r1_7b mmvu: vlmevalkit does not have it"]
    assert "mmvu" not in {c.benchmark for c in found}


def test_sizes_are_those_of_the_method_page():
    """0.466 GFLOP per token and layer, and 1.090 GFLOP per row of the head, for the 7B."""
    assert SIZES["7b"].layer == pytest.approx(0.466e9, rel=1e-3)
    assert 2 * SIZES["7b"].vocabulary * SIZES["7b"].hidden == pytest.approx(1.090e9, rel=1e-3)
    assert SIZES["7b"].weights == pytest.approx(7.6e9, rel=0.02)
    assert size_of("Qwen/Qwen2.5-VL-72B-Instruct") is SIZES["72b"]
    assert size_of("demo/policy") is None


def test_the_estimate_follows_the_closed_forms(tmp_path):
    cell = of(cells_of("table2", tmp_path), "mm_eureka_7b", "mathvision", "replay")
    found = estimate(cell, Rates(tflops=1000.0, bandwidth=1000.0))
    assert found.visual_tokens == 501_760 // 784 == 640
    step = 16 * 0.466e9 * 640
    loop = step * (1 + 2 * 25) + 16 * 640 * 1.090e9
    prefill = 28 * 0.466e9 * 840 + 5.51e9 * 640
    assert found.loop == pytest.approx((loop + prefill) / 1e15, rel=2e-3)
    assert found.decoding == pytest.approx(2048 * 2 * 7.6e9 / 1e12, rel=0.02)
    assert found.hours == pytest.approx(3040 * (found.loop + found.decoding) / 3600)


@pytest.mark.parametrize("harness", ["lmms-eval", "vlmevalkit"])
@pytest.mark.parametrize("name", run_file_names())
def test_a_dry_run_lists_every_cell_without_checkpoints_or_network(
    name, harness, tmp_path, monkeypatch
):
    def refused(*_, **__):
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)  # no .env
    for variable in ("OPENAI_API_KEY", "OPENAI_API_URL", "OPENAI_API_BASE", "HUGGINGFACE_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    _harness.cache_clear()
    _absent.cache_clear()
    words = ["run", name, "--dry-run", "--harness", harness, "--output", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    lines = shown.splitlines()
    found = cells_of(name, tmp_path, harness)
    assert found
    for cell in found:
        (line,) = [line for line in lines if line.startswith(f"{cell.name} ")]
        assert "to run, lacks " in line
        assert f" {cell.task} " in line
    lacking = [line for line in lines if line.startswith("lacks ")]
    assert [line.split()[1] for line in lacking] == [f"{n + 1}:" for n in range(len(lacking))]
    for cell in found:
        assert any(cell.settings.pair.policy in line for line in (*lacking, shown))
        if cell.judge:
            assert any(f"answers to {cell.task} are scored by a judge" in line for line in lacking)
    assert f"is not in {tmp_path / 'hub'} and HF_HUB_OFFLINE=1" in shown or all(
        cell.judge for cell in found
    )
    assert list(tmp_path.iterdir()) == []
    _harness.cache_clear()
    _absent.cache_clear()


def test_hours_say_what_they_are_of(tmp_path):
    table2 = cells_of("table2", tmp_path, pairs=["mm_eureka_7b"])
    told = planned(table2, Rates(), 25.0)
    assert [c.benchmark for c in table2 if c.items is None] == ["dynamath"] * 2 + ["wemath"] * 2
    assert "for 12 of 16 cells" in told
    assert "not in the sum" in told
    large = next(line for line in told.splitlines() if line.startswith("more than 25 GB: "))
    assert large.count("mm_eureka_7b ") == 8
    assert " none" not in large
    table3 = cells_of("table3", tmp_path)
    assert {c.items for c in table3} == {800}  # both halves, though the number is of one
    assert {c.turns for c in table3} == {11}
    told = planned(table3, Rates())
    assert "conversations of up to 11 turns" in told
    assert "at most" not in told
    single = planned(cells_of("table5", tmp_path), Rates())
    assert "at most about" in single
    assert "for " not in single[single.index("hours in all") :].partition("(")[0]


def test_keys_and_values_of_an_item_are_in_the_memory(tmp_path):
    cell = of(cells_of("table2", tmp_path), "mm_eureka_7b", "mathvision", "none")
    weights = 2 * (SIZES["7b"].weights + 0.68e9)
    kept = 4 * 28 * 512 * (640 + 200 + 2048)
    assert estimate(cell, Rates()).gigabytes == pytest.approx((weights + kept) / 1e9)


def test_the_plan_tells_what_is_needed_before_anything_is_there(tmp_path):
    told = planned(cells_of("table2", tmp_path, pairs=["mm_eureka_32b"]), Rates())
    assert "checkpoints: FanqingM/MM-Eureka-Qwen-32B, Qwen/Qwen2.5-VL-32B-Instruct" in told
    assert "mathvision_reason_test_reasoning" in told
    assert "judges: none" in told
    judged = planned(cells_of("table2", tmp_path, "vlmevalkit", tasks=["mathvista"]), Rates())
    assert "judges: for MathVista_MINI" in judged
