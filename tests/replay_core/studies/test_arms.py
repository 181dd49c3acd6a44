"""Arms, their judgement, and what the studies' lists of arms hold."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from replay_core import ReplayConfig
from replay_core.studies.arms import judge, rows_of
from replay_core.studies.grid import grid_arms, mean_curve, step_sizes
from replay_core.studies.intervention import SELECTS, intervention_arms
from replay_core.studies.treatments import control_arms

PRESET = ReplayConfig(layers=(0, 2, 5), threshold=0.2, step_size=300, steps=7)


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
    first, _ = rows_of([low, random])
    assert (first["fixed"] - first["broken"]) / first["n"] == pytest.approx(first["difference"])


def test_without_a_gain_hardly_any_is_found():
    found = [judge(scores(0.0, 400, seed), "none")[0].holm_p for seed in range(40)]
    assert sum(p < 0.05 for p in found) <= 4


def test_every_injection_arm_is_there_once_with_its_settings():
    arms = intervention_arms(PRESET)
    assert [arms[0].name, arms[0].config.method] == ["none", "none"]
    named = {arm.name: arm.config for arm in arms[1:]}
    assert len(named) == len(SELECTS) * 2 * 2
    config = named["reference input matched_high"]
    assert (config.method, config.boundary, config.positions, config.select) == (
        "inject",
        "reference",
        "input",
        "matched_high",
    )
    assert all(c.layers == PRESET.layers and c.threshold == 0.2 for c in named.values())


def test_the_controls_differ_from_replay_in_one_thing_each():
    arms = {arm.name: arm for arm in control_arms(PRESET, votes=9, n_layers=6)}
    replay = arms["replay"].config
    assert replay == PRESET
    assert arms["zero steps"].config == replay.model_copy(update={"steps": 0})
    assert arms["random mask"].config == replay.model_copy(update={"select": "random"})
    assert arms["high-entropy mask"].config == replay.model_copy(update={"select": "high"})
    for name in ("shuffled base", "random x", "self-pair, aligned"):
        assert arms[name].config == replay
        assert arms[name].treatment != "plain"
    # The reference reading cannot match the last layer.
    assert arms["self-pair, reference"].config.layers == (0, 2)
    assert arms["self-consistency, 9 votes"].votes == 9


def test_where_everything_is_matched_the_papers_mask_stands_beside_it():
    whole = PRESET.model_copy(update={"select": "all"})
    controls = {arm.name: arm.config for arm in control_arms(whole, votes=2, n_layers=6)}
    assert controls["replay"].select == "all"
    assert controls["low-entropy mask"].select == "low"
    cells = grid_arms(whole, (0.2, 0.4), (10,), {})
    assert {arm.config.select for arm in cells[1:]} == {"low"}  # else γ would not matter


def test_the_grid_holds_the_published_steps_and_the_pairs_own():
    assert step_sizes(PRESET) == [10, 20, 40, 100, 300, 900]
    thresholds = {0.2: {0: 0.5, 2: 0.6, 5: 0.7}}
    arms = {arm.name: arm.config for arm in grid_arms(PRESET, (0.2, 0.4), (10, 300), thresholds)}
    assert len(arms) == 1 + 4 + 1
    cell = arms["γ=0.4 α=10"]
    assert (cell.threshold, cell.step_size, cell.thresholds) == (0.4, 10, "dynamic")
    fixed = arms["fixed as γ=0.2 α=300"]
    assert fixed.thresholds == thresholds[0.2]
    assert fixed.step_size == 300


def test_a_sample_that_left_the_loop_keeps_its_last_loss():
    assert mean_curve([[4.0, 2.0, 1.0], [2.0]], 2) == [3.0, 2.0, 1.5]
    assert mean_curve([], 2) == []
