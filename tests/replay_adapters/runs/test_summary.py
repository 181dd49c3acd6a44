"""The table over many comparisons, and what it says of the published differences."""

from dataclasses import replace

import pytest

from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.summary import SummaryLine, summary_line, summary_table
from tests.replay_adapters.runs.test_compare import planted
from tests.support.lmms_eval_files import NONE, REPLAY, write_run
from tests.support.tables import by, tables

MATHVISTA = "mathvista_testmini_cot_reasoning"
EUREKA = {
    "pair": "mm_eureka_7b",
    "policy": "FanqingM/MM-Eureka-Qwen-7B",
    "base": "Qwen/Qwen2.5-VL-7B-Instruct",
}


@pytest.fixture
def found(tmp_path):
    """A comparison of a published pair on a published task: 200 items, 12 fixed and 5 broken."""
    a, b = planted(200, 12, 5)
    for name, scores, config in (("a", a, NONE), ("b", b, REPLAY)):
        rows = [{"acc_score": score} for score in scores]
        summary = {**EUREKA, "config": config}
        write_run(tmp_path / name, rows, task=MATHVISTA, names=["acc_score"], summary=summary)
    (one,) = compare_runs(tmp_path / "a", tmp_path / "b")
    return one


def test_a_line_has_the_papers_numbers_beside_the_measured_ones(found):
    (table,) = tables(summary_table([summary_line(found)]))
    (line,) = table
    report = found.report
    assert (line["published none"], line["published replay"]) == ("73.0", "73.5")
    assert line["measured none"] == f"{100 * report.score_a:.1f}"
    assert line["measured replay"] == f"{100 * report.score_b:.1f}"
    low, high = 100 * report.interval.low, 100 * report.interval.high
    assert line["difference [95%]"] == f"+3.5 [{low:+.1f}, {high:+.1f}]"
    assert line["fixed / broken"] == "12 / 5"
    assert line["p (Holm)"] == f"{found.holm_p:.2g}"
    assert line["published difference"] == "+0.5"
    assert low < 0.5 < high
    assert line["inside the interval"] == "yes"


@pytest.mark.parametrize(
    ("published", "inside"),
    [((70.0, 90.0), "no"), ((70.0, 60.0), "no"), ((70.0, 73.5), "yes"), ((70.0, None), "–")],
)
def test_whether_the_published_difference_lies_inside_the_interval(found, published, inside):
    line = replace(summary_line(found), published=published)
    ((told,),) = tables(summary_table([line]))
    assert told["inside the interval"] == inside


def test_what_was_not_run_yet_has_the_papers_numbers_alone(found):
    waiting = SummaryLine("mm_eureka_7b on wemath", published=(36.8, 38.0), measured=(37.5, None))
    (table,) = tables(summary_table([summary_line(found, "mathvista"), waiting]))
    line = by("compared", table)["mm_eureka_7b on wemath"]
    assert (line["published none"], line["published replay"]) == ("36.8", "38.0")
    assert (line["measured none"], line["measured replay"]) == ("37.5", "–")
    assert line["published difference"] == "+1.2"
    assert (line["difference [95%]"], line["n"], line["inside the interval"]) == ("–", "–", "–")


def test_lines_of_several_methods_say_their_own(found):
    other = replace(summary_line(found, "a | b"), methods=("none", "inject"))
    (table,) = tables(summary_table([summary_line(found), other]))
    assert [line["compared"] for line in table] == [
        f"{MATHVISTA} (none → replay)",
        "a / b (none → inject)",
    ]
    assert {"measured a", "measured b"} <= table[0].keys()
