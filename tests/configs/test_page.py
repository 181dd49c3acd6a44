"""Every cell of the results page, from planted numbers through the code that writes it."""

import re

import pytest

from tests.configs.scripts import RESULTS, load
from tests.replay_core.studies import planted
from tests.support.tables import by, section, tables

page = load(RESULTS).page


@pytest.fixture
def page_of(tmp_path):
    """Write the page of one pair's planted findings and return its text."""

    def write(found, name="demo", sizes=("--n", "731")):
        folder = planted.write(tmp_path / name, found)
        return page.write_page(tmp_path / "RESULTS.md", {name: folder}, list(sizes)).read_text()

    return write


def only_table(text, heading):
    (found,) = tables(section(text, heading))
    return found


def test_every_column_of_an_arms_table(page_of):
    text = page_of(planted.pair())
    preset, best = only_table(text, "Replay and injection on the test split")
    assert preset == {
        "arm": "the pair's preset",
        "none": "0.412",
        "score": "0.437",
        "difference (points)": "+2.5 [+1.2, +5.7]",
        "fixed/broken": "31/17",
        "p": "0.042",
        "Holm's p": "0.12",
        "MDE": "3.5",
        "masked": "0.68",
        "seconds": "1.234",
    }
    assert best == {
        "arm": "best on the development split: γ=0.7 α=40",
        "none": "0.412",
        "score": "0.381",
        "difference (points)": "-3.1 [-6.5, -0.7]",
        "fixed/broken": "12/43",
        "p": "0.0032",
        "Holm's p": "0.013",
        "MDE": "2.9",
        "masked": "",
        "seconds": "0.567",
    }


@pytest.mark.parametrize(
    ("heading", "arms"),
    [
        (
            "Intervention (Table 1's form)",
            {
                "aligned visual low": ("+4.3 [+1.9, +6.7]", "90/47"),
                "aligned visual high": ("-6.2 [-9.3, -3.1]", "21/66"),
                "reference input low": ("+0.3 [-1.5, +2.2]", "77/75"),
            },
        ),
        (
            "Controls",
            {
                "base": ("-18.7 [-22.1, -15.3]", "68/255"),
                "replay": ("+0.8 [-1.1, +2.9]", "41/35"),
                "random x": ("+2.1 [-0.4, +4.7]", "29/17"),
                "random mask": ("-5.4 [-8.8, -2.2]", "9/48"),
            },
        ),
    ],
)
def test_each_study_shows_its_own_arms(page_of, heading, arms):
    rows = by("arm", only_table(page_of(planted.pair()), heading))
    shown = {arm: (row["difference (points)"], row["fixed/broken"]) for arm, row in rows.items()}
    assert shown == arms


def test_every_cell_of_the_drift_table(page_of):
    rows = only_table(page_of(planted.pair()), "Drift")
    cells = {
        (row["positions"], row["model"]): (
            row["mean KL (nats)"],
            row["top-1 agreement"],
            row["KL low / KL high entropy"],
            row["log ratio of policy to this"],
        )
        for row in rows
    }
    assert cells == {
        ("visual", "policy"): ("0.022", "0.871", "1.8 [1.5, 2.1]", ""),
        ("visual", "sft twin"): ("0.014", "0.902", "1.3 [1.1, 1.4]", "+0.37 [0.21, 0.52]"),
        ("visual", "weight noise"): ("0.0042", "0.983", "2.5 [2.3, 2.6]", "-0.29 [-0.41, -0.18]"),
        ("text", "policy"): ("0.11", "0.654", "0.71 [0.58, 0.84]", ""),
        ("text", "sft twin"): ("0.096", "0.732", "0.93 [0.79, 1.1]", "-0.27 [-0.45, -0.08]"),
        ("text", "weight noise"): ("0.057", "0.795", "1 [0.97, 1.1]", "-0.38 [-0.61, -0.17]"),
    }


def test_what_is_not_defined_is_called_so(page_of):
    found = planted.pair()
    entry = found["drift"]["findings"]["text"]["weight noise"]
    entry |= {"low_over_high": None, "low_over_high_interval": [None, None], "agreement": None}
    entry |= {"log_ratio_of_policy_to_this": None, "log_ratio_interval": [None, None]}
    wrong = found["perturbation"]["findings"]["wrong"]["low"]
    wrong |= {"rho": None, "interval": [None, None], "n": 0}
    text = page_of(found)
    row = only_table(text, "Drift")[-1]
    assert row["KL low / KL high entropy"] == "undefined"
    assert row["top-1 agreement"] == "undefined"
    assert row["log ratio of policy to this"] == ""
    (low,) = (r for r in only_table(text, "Perturbation") if r["items"] == "0")
    assert (low["answers"], low["correlation"], low["mean ρ"]) == ("wrong", "low", "undefined")


def test_every_cell_of_the_perturbation_table(page_of):
    rows = only_table(page_of(planted.pair()), "Perturbation")
    cells = {(r["answers"], r["correlation"]): (r["items"], r["mean ρ"]) for r in rows}
    assert cells == {
        ("right", "low"): ("94", "+0.41 [0.33, 0.48]"),
        ("right", "low given high"): ("93", "+0.26 [0.17, 0.34]"),
        ("right", "low given sigma"): ("92", "+0.07 [-0.02, 0.15]"),
        ("right", "high given low"): ("91", "-0.12 [-0.19, -0.04]"),
        ("wrong", "low"): ("76", "-0.36 [-0.44, -0.27]"),
        ("wrong", "low given high"): ("74", "-0.22 [-0.31, -0.13]"),
        ("wrong", "low given sigma"): ("73", "-0.05 [-0.14, 0.03]"),
        ("wrong", "high given low"): ("72", "+0.16 [0.06, 0.24]"),
    }


def test_fixed_thresholds_stand_beside_the_dynamic_cell_of_their_own_values(page_of):
    rows = only_table(page_of(planted.pair()), "Grid (Table 5's form, on the development split)")
    assert [tuple(row.values()) for row in rows] == [
        ("γ=0.2 α=2900, dynamic", "+1.7", "14/5", "0.064", "0.31"),
        ("γ=0.2 α=2900, fixed per layer", "-0.9", "6/11", "0.33", "0.30"),
        ("γ=0.7 α=2900, dynamic", "-2.4", "2/19", "0.00022", "0.86"),
        ("γ=0.7 α=2900, fixed per layer", "+3.6", "23/4", "0.00031", ""),
    ]
    headings = ["thresholds", "difference (points)", "fixed/broken", "p", "masked"]
    assert list(rows[0]) == headings


def test_a_grid_without_held_out_documents_says_so(page_of):
    found = planted.pair()
    cells = found["grid"]["findings"]["cells"]
    found["grid"]["findings"]["cells"] = {k: v for k, v in cells.items() if k[0] == "γ"}
    text = section(page_of(found), "Grid (Table 5's form, on the development split)")
    assert "No documents were left for fixed thresholds." in text
    assert tables(text) == []


def test_pass_at_k_of_every_arm_and_the_difference_at_the_last_k(page_of):
    rows = only_table(page_of(planted.pair()), "Pass@K (Figure 6's form)")
    last = "difference from policy @8"
    assert list(rows[0]) == ["arm", "Pass@1", "Pass@2", "Pass@4", "Pass@8", last]
    assert {row["arm"]: tuple(row.values())[1:] for row in rows} == {
        "base": ("0.312", "0.398", "0.487", "0.561", "-10.3 [-14.1, -6.6]"),
        "policy": ("0.523", "0.581", "0.629", "0.664", ""),
        "policy + replay": ("0.541", "0.607", "0.658", "0.703", "+3.9 [+1.2, +6.7]"),
        "policy + inject": ("0.507", "0.559", "0.598", "0.632", "-3.2 [-7.1, +0.8]"),
    }


def test_the_words_around_the_tables_have_their_studys_numbers(page_of):
    text = page_of(planted.pair(), name="other")
    preset = "γ 0.37, α 2900, 23 steps, layers 5, select `low`, aligned reading"
    assert f"Preset of the pair file: {preset}" in text
    assert "development grid below (n = 149)" in text
    told = {
        "Replay and injection on the test split": ("n = 731.",),
        "Drift": ("drift --pair other --task replay_demo --n 289 ", "n = 287 prompts"),
        "Perturbation": ("perturbation --pair other --task replay_demo --n 98 ", "97 items"),
        "Intervention (Table 1's form)": ("--task replay_demo --n 733 ", "n = 731."),
        "Grid (Table 5's form, on the development split)": (
            "grid --pair other --task replay_demo_dev --n 149 ",
            "fixed thresholds: the mean of γ·max entropy over 47 held-out documents",
        ),
        "Controls": ("controls --pair other --task replay_demo --n 731 --batch-size 37`",),
        "Pass@K (Figure 6's form)": (
            "passk --pair other --task replay_demo --n 194 ",
            "8 samples at temperature 0.9",
            "n = 193 items.",
        ),
    }
    for heading, words in told.items():
        for word in words:
            assert word in section(text, heading), (heading, word)
    assert "(23 steps as published)" in section(text, "What differs from the paper's setting")
    assert "python configs/pairs/demo/results.py --n 731`" in text


def test_each_study_shows_its_own_figure(page_of):
    text = page_of(planted.pair(), name="other")
    for heading, name in (
        ("Drift", "drift"),
        ("Perturbation", "perturbation"),
        ("Intervention (Table 1's form)", "intervention"),
        ("Grid (Table 5's form, on the development split)", "grid"),
        ("Controls", "controls"),
        ("Pass@K (Figure 6's form)", "passk"),
    ):
        shown = re.findall(r"!\[.*?\]\((.*?)\)", section(text, heading))
        assert shown == [f"results/other.{name}.png"]


def test_each_pair_has_its_own_numbers(tmp_path):
    ours, theirs = planted.pair(), planted.pair()
    theirs["chosen"]["table"][0] |= {"difference": 0.099, "low": 0.081, "high": 0.117}
    folders = {
        "demo": planted.write(tmp_path / "demo", ours),
        "demo_drifted": planted.write(tmp_path / "demo_drifted", theirs),
    }
    text = page.write_page(tmp_path / "RESULTS.md", folders, []).read_text()
    _, first, second = re.split(r"\n## `demo(?:_drifted)?`", text)
    assert "| +2.5 [+1.2, +5.7] |" in first
    assert "| +9.9 [+8.1, +11.7] |" in second
    assert "+9.9" not in first
