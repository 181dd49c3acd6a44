"""Run files: the shipped ones name what exists, and a wrong one is refused in one sentence."""

import pytest
import yaml

from replay_adapters.settings.benchmarks import benchmarks
from replay_adapters.settings.pairs import pair_names
from replay_adapters.settings.resources import resource
from replay_adapters.settings.run_files import read_run_file, run_file_names
from replay_core import UsageError
from replay_core.errors import shown

GOOD = {
    "title": "Mine",
    "tasks": {"demo": {"lmms-eval": "replay_demo"}},
    "arms": {"none": {"method": "none"}, "replay": {}},
    "rows": [{"pair": "demo"}],
}


def test_the_five_tables_of_the_paper_are_shipped():
    assert run_file_names() == [f"table{number}" for number in range(1, 6)]


@pytest.mark.parametrize("name", run_file_names())
def test_a_shipped_table_names_pairs_benchmarks_and_sets_that_exist(name):
    table = read_run_file(name)
    assert {row.pair for row in table.rows} <= set(pair_names())
    assert set(table.tasks) <= set(benchmarks())
    for asked in table.tasks.values():
        assert asked.vlmevalkit is None or asked.vlmevalkit.kind, asked


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": {"replay": {}}}, "arms has no 'none', the baseline"),
        (
            {"arms": {"none": {}, "x": {"treshold": 1}}},
            "arms names 'treshold'; did you mean thresh",
        ),
        (
            {"rows": [{"pair": "demo", "benchmarks": ["mathvista"]}]},
            "names 'mathvista'; (allowed: demo)",
        ),
        (
            {"rows": [{"pair": "demo", "arms": {"inject": {}}}]},
            "rows.arms names 'inject'; (allowed:",
        ),
        ({"rows": []}, "rows=[]: "),
        ({"rows": [{"pairs": "demo"}]}, "rows"),
        ({"published": "table2"}, "published=table2"),
        ({"name": "x"}, "name is not known (allowed: title, published"),
        ({"tasks": {"demo": {"lmms_evals": "x"}}}, "tasks"),
    ],
)
def test_a_wrong_run_file_is_refused_by_file_and_field(tmp_path, changes, told):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **changes}))
    with pytest.raises(UsageError) as refused:
        read_run_file(str(file))
    assert str(refused.value).startswith(f"run file {shown(file)}: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_table_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean table2"):
        read_run_file("table22")


def test_options_of_a_cell_are_the_nearest_ones(tmp_path):
    file = tmp_path / "mine.yaml"
    row = {
        "pair": "demo",
        "arms": {"replay": {"threshold": 0.2, "steps": 5}},
        "exceptions": {"demo": {"replay": {"steps": 7}}},
    }
    arms = {"none": {"method": "none"}, "replay": {"threshold": 0.4, "step_size": 3}}
    file.write_text(yaml.safe_dump({**GOOD, "rows": [row], "arms": arms}))
    table = read_run_file(str(file))
    found = table.options(table.rows[0], "demo", "replay")
    assert found == {"threshold": 0.2, "step_size": 3, "steps": 7}
    assert table.options(table.rows[0], "demo", "none") == {"method": "none"}


def test_run_files_hold_plain_data():
    for path in (resource("configs") / "runs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)
