"""Which arms the controls have, and how many votes replay's seconds buy."""

from replay_core import ReplayConfig
from replay_core.studies.controls import affordable_votes, arms_of

PRESET = ReplayConfig(layers=(0, 2, 5), threshold=0.2, step_size=300, steps=7)


def test_the_controls_differ_from_replay_in_one_thing_each():
    arms = {arm.name: arm for arm in arms_of(PRESET, votes=9, n_layers=6)}
    replay = arms["replay"].config
    assert replay == PRESET
    assert arms["zero steps"].config == replay.model_copy(update={"steps": 0})
    assert arms["random mask"].config == replay.model_copy(update={"select": "random"})
    assert arms["high-entropy mask"].config == replay.model_copy(update={"select": "high"})
    assert arms["random x"].config == replay.model_copy(update={"x": "random"})
    for name in ("shuffled base", "self-pair, aligned"):
        assert arms[name].config == replay
        assert arms[name].treatment != "plain"
    # The reference reading cannot match the last layer.
    assert arms["self-pair, reference"].config.layers == (0, 2)
    assert arms["self-consistency, 9 votes"].votes == 9


def test_where_everything_is_matched_the_papers_mask_stands_beside_it():
    whole = PRESET.model_copy(update={"select": "all"})
    arms = {arm.name: arm.config for arm in arms_of(whole, votes=2, n_layers=6)}
    assert arms["replay"].select == "all"
    assert arms["low-entropy mask"].select == "low"


def test_votes_are_what_the_seconds_buy():
    assert affordable_votes(1.2, 0.1) == 12
    assert affordable_votes(0.01, 0.1) == 1
    assert affordable_votes(100, 0.1) == 64
