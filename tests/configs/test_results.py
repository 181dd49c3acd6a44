"""`make results` on ten items of one embedded pair, really run, judged by the page it writes."""

import json
import re

import pytest

from tests.configs.scripts import RESULTS, load
from tests.support.tables import section, tables

scripts = load(RESULTS)
results = scripts.results


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of rows and the page's folder."""
    root = tmp_path_factory.mktemp("results")
    work, output = root / "work", root / "page"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "PAIRS", ("demo",))
        sizes = {"n": 10, "batch_size": 10, "pass_items": 2, "grid_items": 10}
        results.main(only="", twin=None, work=work, output=output, **sizes)
    return work, output


def test_the_page_has_every_study_and_every_figure_it_shows(written):
    _, output = written
    text = (output / "RESULTS.md").read_text()
    for heading in ("Drift", "Perturbation", "Intervention", "Grid", "Controls", "Pass@K"):
        assert f"\n### {heading}" in text
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(shown) >= 7
    assert all((output / path).stat().st_size > 5000 for path in shown)
    assert {path.name for path in (output / "results").iterdir()} == {
        path.removeprefix("results/") for path in shown
    }


def test_only_the_grid_is_measured_on_the_development_split(written):
    work, _ = written
    tasks = {
        name: json.loads((work / "demo" / f"{name}.json").read_text())["settings"]["task"]
        for name in scripts.findings.Studies.__dataclass_fields__
    }
    assert tasks.pop("grid") == "replay_demo_dev"
    assert set(tasks.values()) == {"replay_demo"}


def test_drift_stands_beside_its_two_nulls(written):
    text = (written[1] / "RESULTS.md").read_text()
    for null in ("sft twin", "weight noise"):
        row = re.search(rf"\| visual \| {null} \|.*", text)[0]
        assert re.search(r"[+-]\d\.\d\d \[", row), row
    assert "no such twin" not in text


def test_the_claims_stand_at_the_top_of_the_page(written):
    text = (written[1] / "RESULTS.md").read_text()
    assert tables(text)[0] == tables(section(text, "The claims, in short"))[0]
    assert list(tables(text)[0][0]) == ["claim", "`demo`"]
