"""Which cells the grid has, which of them is best, and the curves of their losses."""

import pytest

from replay_core import ReplayConfig
from replay_core.studies.grid import Cell, GridResult, arms_of, mean_curve, step_sizes

PRESET = ReplayConfig(layers=(0, 2, 5), threshold=0.2, step_size=300, steps=7)


def test_the_grid_holds_the_published_steps_and_the_pairs_own():
    assert step_sizes(PRESET) == [10, 20, 40, 100, 300, 900]
    thresholds = {0.2: {0: 0.5, 2: 0.6, 5: 0.7}}
    arms = {arm.name: arm.config for arm in arms_of(PRESET, (0.2, 0.4), (10, 300), thresholds)}
    assert len(arms) == 1 + 4 + 1
    cell = arms["γ=0.4 α=10"]
    assert (cell.threshold, cell.step_size, cell.thresholds) == (0.4, 10, "dynamic")
    fixed = arms["fixed as γ=0.2 α=300"]
    assert fixed.thresholds == thresholds[0.2]
    assert fixed.step_size == 300


def test_where_everything_is_matched_the_cells_have_the_papers_mask():
    whole = PRESET.model_copy(update={"select": "all"})
    cells = arms_of(whole, (0.2, 0.4), (10,), {})
    assert {arm.config.select for arm in cells[1:]} == {"low"}  # else γ would not matter


def test_a_sample_that_left_the_loop_keeps_its_last_loss():
    assert mean_curve([[4.0, 2.0, 1.0], [2.0]], 2) == [3.0, 2.0, 1.5]
    assert mean_curve([], 2) == []


def grid(*cells, gamma=0.4, alpha=300.0):
    """Return a grid of (γ, α, thresholds, difference); its labels say nothing."""
    counts = dict.fromkeys(("n", "fixed", "broken"), 9)
    plain = dict.fromkeys(("baseline", "score", "low", "high", "seconds"), 0.5)
    plain |= dict.fromkeys(("p", "holm_p", "permutation_p", "minimum_detectable"), 0.5)
    names = ("gamma", "alpha", "thresholds", "difference")
    made = {}
    for number, values in enumerate(cells):
        arm = f"cell {number}"
        given = {**counts, **plain, "outcomes": "", **dict(zip(names, values, strict=True))}
        made[arm] = Cell(arm=arm, **given)
    return GridResult(
        cells=made,
        curves={},
        thresholds={},
        fixed_thresholds_from="none left",
        own_step_size=alpha,
        own_threshold=gamma,
    )


@pytest.mark.parametrize(
    ("cells", "best"),
    [
        ([(0.2, 10, 0.02), (0.4, 300, 0.01), (0.7, 40, -0.05)], (0.2, 10)),
        ([(0.2, 10, -0.02), (0.4, 300, -0.01)], (0.4, 300)),
        # Of equal gains the nearest α, then the nearest γ, to the pair's own.
        ([(0.4, 10, 0.01), (0.7, 290, 0.01)], (0.7, 290)),
        ([(0.9, 300, 0.01), (0.7, 300, 0.01), (0.2, 40, 0.01)], (0.7, 300)),
    ],
)
def test_the_best_cell_gains_most(cells, best):
    found = grid(*((gamma, alpha, "dynamic", gain) for gamma, alpha, gain in cells)).best
    assert (found.gamma, found.alpha) == best


def test_fixed_thresholds_are_of_the_grids_own_documents_and_never_best():
    found = grid((0.2, 300, "dynamic", 0.01), (0.2, 300, "fixed", 0.09)).best
    assert (found.difference, found.thresholds) == (0.01, "dynamic")
