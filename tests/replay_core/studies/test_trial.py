"""Arms are judged against the baseline, by their first answers; what is told of them."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from replay_core.studies.trial import ArmResult, TrialResult, compared, judge
from tests.replay_core.studies.bench import answered


def scores(gain: float, n: int = 1000, seed: int = 0) -> dict[str, dict[int, float]]:
    """Return a baseline, an arm that fixes a share ``gain`` of it, and one that fixes nothing."""
    rng = np.random.default_rng(seed)
    none = rng.random(n) < 0.5
    noise = rng.random(n) < 0.05
    better = none ^ noise
    wrong = np.flatnonzero(~better)
    better[rng.choice(wrong, round(gain * n), replace=False)] = True
    same = none ^ (rng.random(n) < 0.05)
    arms = {"none": none, "low": better, "random": same}
    return {name: dict(enumerate(values.astype(float))) for name, values in arms.items()}


def test_a_planted_gain_is_found_in_its_arm_only():
    low, random = judge(scores(0.05), "none")
    assert (low.arm, random.arm) == ("low", "random")
    assert low.holm_p < 0.01
    assert 0.05 in low.report.interval
    assert random.holm_p > 0.05
    assert 0 in random.report.interval
    adjusted = multipletests([low.report.p_value, random.report.p_value], method="holm")[1]
    assert [low.holm_p, random.holm_p] == pytest.approx(adjusted.tolist())
    table = low.report.table
    assert (table.fixed - table.broken) / table.n == pytest.approx(low.report.difference)


def test_without_a_gain_hardly_any_is_found():
    found = [judge(scores(0.0, 400, seed), "none")[0].holm_p for seed in range(40)]
    assert sum(p < 0.05 for p in found) <= 4


def test_scores_are_of_first_answers_and_costs_of_all():
    right = {"none": (0, 1, 0), "arm": (1, 1, 0)}
    answers = [
        answered(arm, document, "", repeat, correct=score if repeat == 0 else 1 - score)
        for arm, scores in right.items()
        for document, score in enumerate(scores)
        for repeat in (0, 1)
    ]
    (arm,) = compared(answers)
    assert (arm.n, arm.baseline, arm.score) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (arm.fixed, arm.broken, arm.p) == (1, 0, 1)
    assert arm.outcomes == "off:6"
    assert arm.masked is arm.loss_before is arm.loss_after is arm.tokens is arm.truncated is None


def test_every_column_is_described_and_the_table_says_what_it_does_not_know():
    assert all(field.description for field in ArmResult.model_fields.values())
    answers = [answered(arm, 0, "", correct=score) for arm, score in (("none", 0), ("x", 0.5))]
    (arm,) = compared(answers)
    assert (arm.fixed, arm.broken) == (None, None)  # a score between right and wrong
    head, line = TrialResult(arms={"x": arm}).told().splitlines()
    assert head.startswith("arm  n  baseline  score  difference     low    high  fixed  broken")
    assert line.split()[:9] == ["x", "1", "0.000", "0.500", *["+0.500"] * 3, "-", "-"]
