"""With what settings the best cell of the development grid is taken to the test split."""

from types import SimpleNamespace

import pytest

from replay_core import ReplayConfig
from tests.configs.scripts import load

chosen = load(("chosen",)).chosen


def grid(gamma, alpha):
    """Return a grid whose best cell is this one."""
    return SimpleNamespace(best=SimpleNamespace(arm="the best", gamma=gamma, alpha=alpha))


@pytest.fixture
def arms_of(monkeypatch):
    """Return the arms that the study would answer, by name."""

    def run(config, found):
        seen = {}
        monkeypatch.setattr(chosen.trial, "run", lambda *args: seen.update(arms=args[3]))
        source = type("Bench", (), {"config": config})
        chosen.run_chosen(source, None, 10, found)
        return {arm.name: arm.config for arm in seen["arms"]}

    return run


def test_each_arm_differs_from_the_preset_as_its_name_says(arms_of):
    preset = ReplayConfig(threshold=0.4, step_size=300, layers=(0, 2), steps=7)
    arms = arms_of(preset, grid(0.2, 40))
    changed = {
        "none": {"method": "none"},
        "the pair's preset": {},
        "best on the development split: the best": {"threshold": 0.2, "step_size": 40},
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
    arms = arms_of(preset, grid(0.2, 40))
    best = arms["best on the development split: the best"]
    assert (best.select, best.thresholds, best.threshold) == ("low", "dynamic", 0.2)
    assert arms["the pair's preset"] == preset
