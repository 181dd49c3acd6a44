"""What the study commands print beside the files: the same planted numbers, each in its place."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from replay_adapters.cli import app
from replay_adapters.studies.asked import Asked
from replay_core.studies import controls, drift, grid, intervention, passk, perturbation
from replay_core.studies.trial import TrialResult
from tests.replay_core.studies import planted

STUDIES = {
    "drift": (drift, drift.DriftResult),
    "perturbation": (perturbation, perturbation.PerturbationResult),
    "intervention": (intervention, TrialResult),
    "controls": (controls, TrialResult),
    "grid": (grid, grid.GridResult),
    "passk": (passk, passk.PassKResult),
}


@pytest.fixture
def printed(monkeypatch, tmp_path):
    """Run a command whose study has found what was planted; return the lines it prints."""
    source = SimpleNamespace(pair=SimpleNamespace(name="planted"))
    monkeypatch.setattr(Asked, "bench", lambda asked: source)
    for name, found in planted.pair().items():
        if name in STUDIES:
            module, kind = STUDIES[name]
            result = kind.read(found["findings"])
            monkeypatch.setattr(module, "run", lambda *a, _result=result, **k: _result)

    def run(study):
        ended = CliRunner().invoke(app, [study, "--output", str(tmp_path)], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return ended.output.splitlines()

    return run


def test_drift(printed):
    lines = printed("drift")
    assert lines[1] == "Drift of planted on replay_demo, n = 287"
    told = "  text   sft twin      mean KL 0.0961 nats, low/high entropy 0.93 [0.79, 1.08]"
    assert told in lines
    assert "  visual policy        mean KL 0.0216 nats, low/high entropy 1.83 [1.52, 2.14]" in lines


def test_perturbation(printed):
    lines = printed("perturbation")
    assert lines[1].endswith("97 items")
    assert "  right answers, low given high  ρ = +0.260 [+0.170, +0.340], n = 93" in lines
    assert "  wrong answers, low given high  ρ = -0.220 [-0.310, -0.130], n = 74" in lines


@pytest.mark.parametrize(
    ("study", "arm", "cells"),
    [
        (
            "controls",
            "base",
            ["731", "0.412", "0.437", "-0.187", "-0.221", "-0.153", "68", "255", "1.4e-26"],
        ),
        (
            "intervention",
            "aligned visual high",
            ["731", "0.412", "0.437", "-0.062", "-0.093", "-0.031", "21", "66", "1.2e-06"],
        ),
        (
            "grid",
            "γ=0.7 α=2900",
            ["731", "0.412", "0.437", "-0.024", "-0.044", "+0.006", "2", "19", "0.00022"],
        ),
    ],
)
def test_arms(printed, study, arm, cells):
    lines = printed(study)
    head = "arm n baseline score difference low high fixed broken p holm_p minimum_detectable"
    assert lines[1].split() == head.split()
    (line,) = (line for line in lines if line.startswith(arm))
    assert line.removeprefix(arm).split() == [*cells, "0.12", "0.035"]


def test_passk(printed):
    lines = printed("passk")
    (line,) = (line for line in lines if line.startswith("  policy + replay"))
    told = (
        "@1 0.541 [0.491, 0.581] @2 0.607 [0.557, 0.647] "
        "@4 0.658 [0.608, 0.698] @8 0.703 [0.653, 0.743]"
    )
    assert " ".join(line.removeprefix("  policy + replay").split()) == told
