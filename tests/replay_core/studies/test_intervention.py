"""Which arms the intervention has."""

from replay_core import ReplayConfig
from replay_core.studies.intervention import SELECTS, arms_of

PRESET = ReplayConfig(layers=(0, 2, 5), threshold=0.2, step_size=300, steps=7)


def test_every_injection_arm_is_there_once_with_its_settings():
    arms = arms_of(PRESET)
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
