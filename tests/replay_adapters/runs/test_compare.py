"""Runs compared as scipy, statsmodels and numpy do, refused, and told with the paper's numbers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from typer.testing import CliRunner

from replay_adapters.cli import app
from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.tables import row_of, told
from replay_core import UsageError
from tests.replay_adapters.conftest import REPLAY as TINY_REPLAY
from tests.support.lmms_eval_files import NONE, REPLAY, samples_file, write_run


def log(folder: Path, scores: list[float], *, method: str = "none", **more: Any) -> Path:
    more.setdefault("summary", {})
    summary = {"config": {"method": method}, **more.pop("summary")}
    return write_run(folder, [{"accuracy": score} for score in scores], summary=summary, **more)


def planted(n: int, fixed: int, broken: int) -> tuple[list[float], list[float]]:
    """Return two runs: the first items are fixed, the next broken; of the rest a third is wrong."""
    rest = [float(number % 3 > 0) for number in range(n - fixed - broken)]
    return [0.0] * fixed + [1.0] * broken + rest, [1.0] * fixed + [0.0] * broken + rest


def test_every_number_is_that_of_scipy_statsmodels_and_numpy(tmp_path):
    a, b = planted(200, 24, 9)
    (found,) = compare_runs(log(tmp_path / "a", a), log(tmp_path / "b", b, method="replay"))
    row = row_of(found)
    assert (row.n, row.fixed, row.broken, row.clusters) == (200, 24, 9, None)
    assert row.score_a == pytest.approx(np.mean(a))
    assert row.score_b == pytest.approx(np.mean(b))
    assert row.difference == pytest.approx(0.075)
    table = [[np.sum(np.array(a) * b), 9], [24, np.sum((1 - np.array(a)) * (1 - np.array(b)))]]
    assert row.mcnemar_p == pytest.approx(binomtest(24, 33).pvalue)
    assert row.mcnemar_p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert row.holm_p == row.mcnemar_p
    # All sign flips of 33 moved items by ±1 are a fair binomial: the exact test's own p.
    assert row.permutation_p == pytest.approx(binomtest(24, 33).pvalue, rel=0.15)
    difference = np.subtract(b, a)
    draws = np.random.default_rng(99).choice(difference, (20_000, 200)).mean(axis=1)
    assert [row.low, row.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.006)
    assert row.low < 0.075 < row.high
    error = difference.std(ddof=1) / np.sqrt(200)
    power = NormalIndPower(ddof=0).power(row.minimum_detectable / error, 1, 0.05, ratio=0)
    assert power == pytest.approx(0.8, abs=0.005)
    assert (row.tokens_a, row.truncated_b) == (pytest.approx(5.995), pytest.approx(0.1))


def test_what_is_told_are_those_numbers_in_their_places(tmp_path):
    a, b = planted(200, 24, 9)
    (found,) = compare_runs(log(tmp_path / "a", a), log(tmp_path / "b", b, method="replay"))
    row, lines = row_of(found), dict(_lines(told(found)))
    assert lines["items (n)"] == "200"
    assert lines["score a → b"] == f"{np.mean(a):.4f} → {np.mean(b):.4f}"
    low, high = (f"{getattr(row, end):+.3g}" for end in ("low", "high"))
    assert lines["difference"] == f"+0.0750, 95% interval [{low}, {high}]"
    assert lines["fixed / broken"] == "24 / 9"
    assert lines["exact McNemar p"] == f"{binomtest(24, 33).pvalue:.3g}"
    assert lines["Holm over all tasks"] == f"{row.holm_p:.3g}"
    assert lines["paired permutation p"] == f"{row.permutation_p:.3g}"
    assert lines["minimum detectable"].startswith(f"{row.minimum_detectable:.4f} (80% power")
    assert lines["method"] == "none → replay"
    assert lines["cut answers"] == "10.0% → 10.0%"
    assert not any("published" in label or "harness" in label for label in lines)


def _lines(text: str) -> list[tuple[str, str]]:
    pairs = [line.strip().partition("  ") for line in text.split("\n")[1:]]
    return [(label, value.strip()) for label, _, value in pairs]


def test_scores_between_0_and_1_are_tested_by_permutation_as_scipy_does(tmp_path):
    a = [0.0, 0.25, 0.5, 0.5, 1.0, 0.75, 0.0, 0.25]
    b = [0.5, 0.75, 0.25, 1.0, 1.0, 1.0, 0.75, 0.0]
    (found,) = compare_runs(log(tmp_path / "a", a), log(tmp_path / "b", b))
    row = row_of(found)
    exact = permutation_test((b, a), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert row.permutation_p == row.holm_p == pytest.approx(exact.pvalue)
    assert row.fixed is row.broken is row.mcnemar_p is None
    assert "McNemar" not in told(found)


def test_swapping_the_runs_turns_every_sign(tmp_path):
    a, b = planted(60, 12, 4)
    ours, theirs = log(tmp_path / "a", a), log(tmp_path / "b", b)
    (there,), (back,) = compare_runs(ours, theirs), compare_runs(theirs, ours)
    one, other = row_of(there), row_of(back)
    assert (one.fixed, one.broken) == (other.broken, other.fixed) == (12, 4)
    assert one.difference == -other.difference > 0
    assert one.mcnemar_p == other.mcnemar_p
    assert [one.low, one.high] == pytest.approx([-other.high, -other.low], abs=0.02)


def test_holm_is_over_all_tasks_as_statsmodels_does(tmp_path):
    for task, fixed, broken in (("one", 12, 2), ("two", 6, 4), ("three", 15, 1)):
        a, b = planted(100, fixed, broken)
        log(tmp_path / "a", a, task=task)
        log(tmp_path / "b", b, task=task)
    rows = [row_of(each) for each in compare_runs(tmp_path / "a", tmp_path / "b")]
    assert [row.task for row in rows] == ["one", "three", "two"]
    raw = [row.mcnemar_p for row in rows]
    assert raw == pytest.approx([binomtest(f, f + b).pvalue for f, b in ((12, 2), (15, 1), (6, 4))])
    assert [row.holm_p for row in rows] == pytest.approx(multipletests(raw, method="holm")[1])
    (alone,) = compare_runs(tmp_path / "a", tmp_path / "b", tasks=["one"])
    assert alone.holm_p == pytest.approx(raw[0])


def test_clusters_are_the_units_of_test_interval_and_minimum(tmp_path):
    a, b = planted(48, 12, 4)  # by fours: three clusters up, one down, eight as they were
    asked = [f"Question {number // 4}?\nA. yes\nB. no" for number in range(48)]
    log(tmp_path / "a", a, asked=asked)
    log(tmp_path / "b", b, asked=asked)
    (found,) = compare_runs(tmp_path / "a", tmp_path / "b", cluster="question")
    row = row_of(found)
    assert (row.n, row.clusters) == (48, 12)
    assert row.permutation_p == row.holm_p == binomtest(3, 4).pvalue
    means = np.array([1, 1, 1, -1] + [0] * 8)
    draws = np.random.default_rng(5).choice(means, (20_000, 12)).mean(axis=1)
    assert [row.low, row.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)
    error = means.std(ddof=1) / np.sqrt(12)
    assert row.minimum_detectable == pytest.approx(2.8016 * error, rel=1e-3)
    assert "48 in 12 clusters" in told(found)
    assert "(not for clusters)" in told(found)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"asked": ["Other?"] * 20}, "their prompt differs at document 0"),
        ({"changed": {"suffix": "Think."}}, "their prompt differs .user_suffix is None .* Think"),
        ({"changed": {"pixels": "50176"}}, "pixels differs .max_pixels is 12544 in one and 50176"),
        ({"changed": {"tokens": 2048}}, "their decoding differs .generation .*2048"),
        ({"changed": {"scorer": "other_judge"}}, "their judge differs .scorer is .*other_judge"),
    ],
)
def test_runs_that_differ_are_refused_with_the_difference(tmp_path, changed, said):
    a, b = planted(20, 2, 1)
    with pytest.raises(UsageError, match=said):
        compare_runs(log(tmp_path / "a", a), log(tmp_path / "b", b, **changed))


def test_other_documents_tasks_and_folders_are_refused(tmp_path):
    a, b = planted(20, 2, 1)
    log(tmp_path / "a", a)
    with pytest.raises(UsageError, match=r"documents differ .1 only in the first"):
        compare_runs(tmp_path / "a", log(tmp_path / "b", b[:-1]))
    with pytest.raises(UsageError, match=r"different tasks: .* has pictures; .* has films"):
        compare_runs(tmp_path / "a", log(tmp_path / "c", b, task="films"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds neither samples of lmms-eval"):
        compare_runs(tmp_path / "a", tmp_path / "empty")
    with pytest.raises(UsageError, match="does not exist"):
        read_runs(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no run of films .found: pictures"):
        read_runs(tmp_path / "a", ["films"])
    with pytest.raises(UsageError, match=r"metric 'bleu' is no number .* names accuracy"):
        read_runs(tmp_path / "a", metric="bleu")
    with pytest.raises(UsageError, match="--cluster colour is no field"):
        compare_runs(tmp_path / "a", tmp_path / "a", cluster="colour")
    one = log(tmp_path / "one", a, asked=["Same?"] * 20)
    with pytest.raises(UsageError, match="puts all 20 items of pictures into one cluster"):
        compare_runs(one, one, cluster="question")


EUREKA = {
    "pair": "mm_eureka_7b",
    "policy": "FanqingM/MM-Eureka-Qwen-7B",
    "base": "Qwen/Qwen2.5-VL-7B-Instruct",
}
MATHVISTA = "mathvista_testmini_cot_reasoning"


def paper(tmp_path: Path, first: dict, second: dict, **summary: Any) -> Any:
    """Compare two runs of a published pair on a published task."""
    a, b = planted(40, 6, 2)
    for name, scores, config in (("a", a, first), ("b", b, second)):
        write_run(
            tmp_path / name,
            [{"acc_score": score} for score in scores],
            task=MATHVISTA,
            names=["acc_score"],
            summary={**EUREKA, **summary, "config": config},
            limit=1000,
        )
    (found,) = compare_runs(tmp_path / "a", tmp_path / "b")
    return found


BASE = {"method": "base"}


@pytest.mark.parametrize(
    ("first", "second", "numbers"),
    [
        (NONE, REPLAY, (73.0, 73.5)),
        (REPLAY, NONE, (73.5, 73.0)),
        (NONE, BASE, (73.0, 69.1)),
        (BASE, REPLAY, (69.1, 73.5)),
        (NONE, NONE, (73.0, 73.0)),
        (REPLAY, {**REPLAY, "threshold": 0.2}, (73.5, 73.5)),
        (NONE, {"method": "inject"}, (73.0, None)),
        ({**REPLAY, "select": "random"}, REPLAY, (None, 73.5)),
    ],
)
def test_the_papers_numbers_stand_beside_the_run_they_are_of(tmp_path, first, second, numbers):
    found = paper(tmp_path, first, second)
    row = row_of(found)
    assert (row.published_a, row.published_b) == numbers
    shown = " → ".join("none" if number is None else str(number) for number in numbers)
    assert dict(_lines(told(found)))["published a → b"] == f"{shown} % (MathVista)"


def test_what_a_number_was_made_with_is_told_beside_its_run(tmp_path):
    found = paper(tmp_path, {**REPLAY, "step_size": 30}, NONE)
    row = row_of(found)
    assert "step_size=10 (here 30.0)" in row.published_note_a
    assert "step_size" not in row.published_note_b
    assert "the first 40 of 1000 documents" in row.published_note_b
    notes = [value for label, value in _lines(told(found)) if label == "published a"]
    assert "Table 2: method=replay, select=low, threshold=0.4, step_size=10 (here 30.0)" in notes[0]


def test_runs_the_paper_knows_nothing_of_have_no_numbers(tmp_path):
    row = row_of(paper(tmp_path, NONE, REPLAY, pair="mine", policy="me/rl", base="me/base"))
    assert row.published_a is row.published_b is row.published_note_a is None


@pytest.fixture(scope="module")
def tiny_runs(lmms_eval, tiny_pairs):
    """Two runs of the tiny pair through lmms-eval's own command line: without and with replay."""
    pair = tiny_pairs["qwen2_5_vl"]
    given = f"pretrained={pair.policy},replay_base={pair.base},dtype=float32"
    given += ",min_pixels=3136,max_pixels=50176"
    task = ("replay_test_pictures", "--batch_size", "3")
    none = lmms_eval("qwen2_vl_replay", f"{given},replay_method=none", *task)
    return none, lmms_eval("qwen2_vl_replay", f"{given},{TINY_REPLAY}", *task)


def test_the_command_compares_the_harnesses_runs(tiny_runs, tmp_path):
    none, replay = tiny_runs
    even = [[row["even"] for _, row in sorted(run.samples.items())] for run in tiny_runs]
    words = ["compare", str(none.folder), str(replay.folder), "--output", str(tmp_path)]
    ended = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ended.exit_code == 0
    lines = dict(_lines(ended.stdout))
    assert lines["items (n)"] == "6"
    assert lines["method"] == "none → replay"
    assert lines["score a → b"] == f"{np.mean(even[0]):.4f} → {np.mean(even[1]):.4f}"
    (row,) = json.loads((tmp_path / "compare.json").read_text())["table"]
    assert row["harness_a"] == pytest.approx(row["score_a"]) == pytest.approx(np.mean(even[0]))
    assert row["tokens_b"] == np.mean([record["new_tokens"] for record in replay.records])
    with (tmp_path / "compare.csv").open() as file:
        (cells,) = csv.DictReader(file)
    assert (cells["method_a"], cells["method_b"]) == ("none", "replay")
    assert float(cells["score_b"]) == pytest.approx(np.mean(even[1]), rel=1e-5)


def test_the_command_refuses_a_score_that_is_not_a_number(tmp_path):
    a, b = planted(20, 3, 1)
    log(tmp_path / "a", a)
    log(tmp_path / "b", [*b[:-1], float("nan")])
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(UsageError, match="is nan for document 19 in") as refused:
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert samples_file(tmp_path / "b").name in str(refused.value)


def dynamath(folder: Path, right: list[bool], source: int) -> Path:
    """Write a run on DynaMath with ``right`` per variant, ``source`` variants of a problem each."""
    rows = [
        {"dynamath_average": {"acc": float(hit), "question_id": n, "variant_id": n // source}}
        for n, hit in enumerate(right)
    ]
    return write_run(folder, rows, task="dynamath_reasoning", names=["dynamath_average"])


def test_variants_of_one_problem_are_a_cluster_and_the_table_says_so(tmp_path):
    a = dynamath(tmp_path / "a", [False] * 20, 5)
    b = dynamath(tmp_path / "b", [True] * 10 + [False] * 10, 5)
    (found,) = compare_runs(a, b)
    assert (found.cluster, found.report.clusters) == ("variant_id", 4)
    assert found.report.permutation_p == 0.5  # two of four problems moved, both up
    assert "20 in 4 clusters by variant_id" in told(found)
    (alone,) = compare_runs(a, b, cluster="none")
    assert (alone.cluster, alone.report.clusters) == (None, None)
    assert "clusters" not in told(alone)


def test_problems_that_were_asked_once_each_are_independent(tmp_path):
    a, b = (dynamath(tmp_path / name, [True, name == "a"] * 5, 1) for name in "ab")
    (found,) = compare_runs(a, b)
    assert (found.cluster, found.report.clusters) == (None, None)


@pytest.mark.parametrize("marks", [{}, {"tag": "answer", "boxed": False}])
def test_runs_whose_answers_were_taken_out_otherwise_are_not_compared(tmp_path, marks):
    a, b = planted(20, 3, 1)
    formats = ({"tag": "answer", "boxed": True}, marks)
    for name, scores, answer in zip("ab", (a, b), formats, strict=True):
        settings = {"user_suffix": None, "generation": {}, "answer": answer}
        log(tmp_path / name, scores, summary={"protocol_settings": settings})
    with pytest.raises(UsageError, match=r"answer format differs .boxed is True in one and"):
        compare_runs(tmp_path / "a", tmp_path / "b")
    assert compare_runs(tmp_path / "a", tmp_path / "a")


def test_a_run_of_no_answer_format_is_as_one_that_knew_of_none(tmp_path):
    a, b = planted(20, 3, 1)
    none = {"user_suffix": None, "generation": {}, "answer": {"boxed": False}}
    log(tmp_path / "a", a)
    log(tmp_path / "b", b, summary={"protocol_settings": none})
    assert compare_runs(tmp_path / "a", tmp_path / "b")
