"""Which cell of the development grid is taken to the test split, and with what settings."""

import pytest

from replay_core import ReplayConfig
from tests.configs.scripts import load

chosen = load(("chosen",)).chosen


def grid(cells, gamma=0.4, alpha=300.0):
    cells = {name: {"difference": gain} for name, gain in cells.items()}
    return {"cells": cells, "own_threshold": gamma, "own_step_size": alpha}


@pytest.mark.parametrize(
    ("cells", "best"),
    [
        ({"γ=0.2 α=10": 0.02, "γ=0.4 α=300": 0.01, "γ=0.7 α=40": -0.05}, "γ=0.2 α=10"),
        ({"γ=0.2 α=10": -0.02, "γ=0.4 α=300": -0.01}, "γ=0.4 α=300"),
        # Of equal gains the nearest α, then the nearest γ, to the pair's own.
        ({"γ=0.4 α=10": 0.01, "γ=0.7 α=290": 0.01}, "γ=0.7 α=290"),
        ({"γ=0.9 α=300": 0.01, "γ=0.7 α=300": 0.01, "γ=0.2 α=40": 0.01}, "γ=0.7 α=300"),
        # Fixed thresholds are of the grid's own documents.
        ({"γ=0.2 α=300": 0.01, "fixed as γ=0.2 α=300": 0.09}, "γ=0.2 α=300"),
    ],
)
def test_the_best_cell_gains_most(cells, best):
    assert chosen.best_of(grid(cells)) == best


@pytest.fixture
def arms_of(monkeypatch):
    """Return the arms that the study would answer, by name."""

    def run(config, found):
        seen = {}
        monkeypatch.setattr(chosen, "arms_study", lambda *args: seen.update(arms=args[3]))
        source = type("Bench", (), {"config": config})
        chosen.run_chosen(source, None, 10, found)
        return {arm.name: arm.config for arm in seen["arms"]}

    return run


def test_each_arm_differs_from_the_preset_as_its_name_says(arms_of):
    preset = ReplayConfig(threshold=0.4, step_size=300, layers=(0, 2), steps=7)
    arms = arms_of(preset, grid({"γ=0.2 α=40": 0.02, "γ=0.4 α=300": 0.01}))
    changed = {
        "none": {"method": "none"},
        "the pair's preset": {},
        "best on the development split: γ=0.2 α=40": {"threshold": 0.2, "step_size": 40},
        "all visual positions": {"select": "all"},
        "inject, mask low": {"method": "inject"},
        "inject, all visual positions": {"method": "inject", "select": "all"},
    }
    expected = {
        name: ReplayConfig(**{**preset.model_dump(), **change}) for name, change in changed.items()
    }
    assert arms == expected


def test_the_best_cell_has_the_grids_mask_and_dynamic_thresholds(arms_of):
    """Where the preset matches everything under fixed thresholds, no cell of the grid did."""
    preset = ReplayConfig(select="all", thresholds={0: 1.5, 1: 0.7}, layers=(0, 1))
    arms = arms_of(preset, grid({"γ=0.2 α=40": 0.02}))
    best = arms["best on the development split: γ=0.2 α=40"]
    assert (best.select, best.thresholds, best.threshold) == ("low", "dynamic", 0.2)
    assert arms["the pair's preset"] == preset
