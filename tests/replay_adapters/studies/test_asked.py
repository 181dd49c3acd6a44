"""The options that the study commands share: what each has, its defaults, and where they lead."""

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from replay_adapters import console
from replay_adapters.cli import app
from replay_adapters.lmms_eval import bench
from replay_adapters.studies.asked import Asked
from replay_core import UsageError

COMMON = {"pair", "task", "n", "output", "model-args", "batch-size", "model", "device"} | {
    *("include-path", "metric", "seed")
}
OWN = {
    "drift": {"quantiles", "null-policy"},
    "perturbation": {"sigmas", "draws", "samples"},
    "intervention": {"positions", "boundaries"},
    "grid": {"gammas", "alphas", "held-out"},
    "passk": {"samples", "temperature"},
    "controls": {"votes"},
    "overlay": {"documents", "most"},
    "thresholds": {"offset"},
}
WITHOUT = {"drift": {"metric"}, "overlay": {"seed"}, "thresholds": {"metric", "seed"}}


@pytest.mark.parametrize("study", OWN)
def test_each_study_has_the_common_options_and_its_own(study):
    options = get_command(app).commands[study].params
    names = {name for option in options for name in option.opts if name.startswith("--")}
    wanted = (COMMON | OWN[study]) - WITHOUT.get(study, set())
    assert names - {"--help"} == {f"--{name}" for name in wanted}


@pytest.fixture
def benches(monkeypatch):
    """Collect what a bench is asked for, and make none."""
    asked = []

    def ask(*words, **how):
        asked.append((words, how))
        raise UsageError("no bench")

    monkeypatch.setattr(bench, "LmmsEvalBench", ask)
    monkeypatch.setattr(console, "quiet_logs", lambda: None)
    return asked


@pytest.mark.parametrize("study", OWN)
def test_the_embedded_pair_is_asked_by_default(study, benches, monkeypatch):
    seen = []
    ask = Asked.bench
    monkeypatch.setattr(Asked, "bench", lambda asked: seen.append(asked) or ask(asked))
    with pytest.raises(UsageError, match="no bench"):
        CliRunner().invoke(app, [study], catch_exceptions=False)
    dev = study in ("grid", "thresholds")
    n = {"perturbation": 100, "grid": 200, "passk": 200, "overlay": 100, "thresholds": 200}
    expected = Asked(task="replay_demo_dev" if dev else "replay_demo", n=n.get(study))
    assert seen == [expected]
    assert (expected.output, expected.seed) == (Path("results/studies"), 0)
    how = {"batch_size": 8, "model": "qwen2_vl_replay", "device": None, "include_path": None}
    how |= {"metric": None}
    assert benches == [(("", expected.task), how)]


@pytest.mark.parametrize("study", OWN)
def test_options_reach_the_bench(study, benches):
    words = ["--pair", "mine", "--model-args", "replay_steps=2,max_pixels=9", "--task", "t"]
    words += ["--batch-size", "3", "--model", "m", "--device", "cpu", "--include-path", "tasks"]
    with pytest.raises(UsageError, match="no bench"):
        CliRunner().invoke(app, [study, *words], catch_exceptions=False)
    how = {"batch_size": 3, "model": "m", "device": "cpu", "include_path": "tasks"}
    how |= {"metric": None}
    assert benches == [(("pair=mine,replay_steps=2,max_pixels=9", "t"), how)]


@pytest.mark.parametrize(
    ("study", "words", "own"),
    [
        ("drift", ["--quantiles", "10"], {"quantiles": 10, "null_policy": None}),
        (
            "perturbation",
            ["--sigmas", "0,2", "--draws", "3", "--samples", "4"],
            {"sigmas": [0, 2], "draws": 3, "samples": 4, "metric": "m"},
        ),
        (
            "intervention",
            ["--positions", "input", "--boundaries", "reference"],
            {"positions": ["input"], "boundaries": ["reference"], "metric": "m"},
        ),
        (
            "grid",
            ["--gammas", "0.3", "--held-out", "7"],
            {"gammas": [0.3], "alphas": None, "held_out": 7, "metric": "m"},
        ),
        (
            "passk",
            ["--samples", "2", "--temperature", "0.5"],
            {"samples": 2, "temperature": 0.5, "metric": "m"},
        ),
        ("controls", ["--votes", "5"], {"votes": 5, "metric": "m"}),
    ],
)
def test_options_reach_the_study(study, words, own, monkeypatch, tmp_path):
    monkeypatch.setattr(Asked, "bench", lambda asked: "the bench")
    given = []

    def run(*words, **how):
        given.append((words, how))
        raise UsageError("asked")

    monkeypatch.setattr(f"replay_core.studies.{study}.run", run)
    common = ["--n", "6", "--output", str(tmp_path), "--seed", "9"]
    common += ["--metric", "m"] if "metric" in own else []
    with pytest.raises(UsageError, match="asked"):
        CliRunner().invoke(app, [study, *common, *words], catch_exceptions=False)
    assert given == [(("the bench", tmp_path, 6), {**own, "seed": 9})]
