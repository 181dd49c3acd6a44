"""Every outcome says what the answer is and, where something is amiss, what to do about it."""

import re

import pytest

from replay_adapters.settings.run_options import REPLAY_OPTIONS
from replay_core import Outcome
from replay_core.outcome import SampleReplay

WELL = {"applied", "off", "no_visual_tokens", "no_drift"}


@pytest.mark.parametrize("outcome", Outcome, ids=str)
def test_an_outcome_is_its_name_with_two_texts(outcome: Outcome) -> None:
    assert Outcome(outcome.value) is outcome
    assert str(outcome) == outcome.value == f"{outcome}"
    assert outcome.meaning[0].islower()
    assert not outcome.meaning.endswith(".")
    assert bool(outcome.remedy()) == (outcome.value not in WELL)


@pytest.mark.parametrize("outcome", Outcome, ids=str)
def test_remedies_name_options_that_there_are_as_a_user_types_them(outcome: Outcome) -> None:
    named = re.findall(r"replay_\w+", outcome.remedy("replay_"))
    assert {*named} <= {*REPLAY_OPTIONS}
    assert "replay_" not in outcome.remedy()
    assert outcome.remedy("replay_").replace("replay_", "") == outcome.remedy()


def test_the_texts_say_which_way_to_turn_a_knob() -> None:
    assert Outcome.EMPTY_MASK.remedy("replay_").startswith("raise replay_threshold")
    assert Outcome.NO_EFFECT.remedy().startswith("raise step_size")
    assert Outcome.DIVERGED.remedy().startswith("lower step_size")


def test_where_the_loss_rose_is_told_apart_from_where_it_did_not() -> None:
    def sample(*losses: float) -> SampleReplay:
        return SampleReplay(Outcome.APPLIED, losses=losses)

    assert not sample(2.0, 2.09, 0.1).rose
    assert sample(2.0, 2.11, 0.1).rose
    assert sample(2.0, float("nan"), 3.0).loss_peak == 3.0
    assert sample().loss_peak is None
    assert not sample().rose
