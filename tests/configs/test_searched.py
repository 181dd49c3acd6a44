"""The results page's table of every arm that was tried."""

import csv

import pytest

from tests.configs.scripts import FOLDER, RESULTS, load
from tests.support.tables import tables

search_section = load(RESULTS).tables.search_section
FIELDS = (
    *("policy", "documents", "n", "noise", "base", "policy_accuracy", "method", "select"),
    *("threshold", "step_size", "layers", "accuracy", "gain", "fixed", "broken", "p"),
    *("loss_ratio", "reason"),
)


def row(**values):
    plain = dict.fromkeys(FIELDS, "") | {"policy": "a-seed0", "documents": "dev", "n": "500"}
    plain |= {"noise": "5-25", "method": "replay", "select": "all", "layers": "4", "p": "1"}
    return plain | {"fixed": "3", "broken": "4"} | values


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "search.csv"

    def write(*rows):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def test_holm_is_over_the_arms_of_replay_alone(table):
    """Two arms of replay at .02 and .03: Holm's are .04 and .04; the control has none."""
    arms = (row(p="0.02", step_size="300.0"), row(method="random x", p="0.001"), row(p="0.03"))
    text = search_section(table(*arms))
    (lines,) = tables(text)
    assert [line["Holm's p"] for line in lines] == ["0.04", "", "0.04"]
    assert [line["p"] for line in lines] == ["0.02", "0.001", "0.03"]
    assert "3 arms of 1 policies" in text
    assert "the 2 arms of replay here, of which 2 stay below 0.05" in text


def test_an_arm_says_all_that_it_differs_in(table):
    low = row(select="low", threshold="0.4", step_size="3000.0", layers="6", noise="25-60")
    text = search_section(table(low, row(policy="b-seed1", method="inject")))
    assert "replay, low γ 0.4, α 3000, 6 layers" in text
    assert "dev, pixel noise 25-60" in text
    assert "| inject, all |" in text
    assert "2 arms of 2 policies" in text


def test_every_column_has_its_own_number(table):
    arms = (
        row(base="0.511", policy_accuracy="0.622", accuracy="0.733", n="477", p="0.041")
        | {"fixed": "71", "broken": "18", "loss_ratio": "0.144", "reason": "the first"},
        row(p="0.013"),
        row(p="0.6"),
    )
    (lines,) = tables(search_section(table(*arms)))
    assert lines[0] == {
        "policy": "a-seed0",
        "tried because": "the first",
        "documents": "dev",
        "n": "477",
        "base": "0.511",
        "policy alone": "0.622",
        "arm": "replay, all",
        "answers": "0.733",
        "fixed/broken": "71/18",
        "p": "0.041",
        "Holm's p": "0.082",
        "KL after/before": "0.144",
    }
    assert [line["Holm's p"] for line in lines] == ["0.082", "0.039", "0.6"]
    assert "of which 1 stay below 0.05" in search_section(table(*arms))


def test_the_committed_table_can_be_shown():
    (lines,) = tables(search_section(FOLDER / "search.csv"))
    assert len(lines) > 10
    assert all(line["policy"] and line["fixed/broken"].count("/") == 1 for line in lines)
