"""A map that the command learns, used by the harness alone and as the beginning of the loop."""

import json

import pytest
from typer.testing import CliRunner

from replay_adapters import console
from replay_adapters.cli import app
from replay_adapters.lmms_eval.bench import LmmsEvalBench
from replay_core import UsageError
from replay_core.studies.amortise import AmortiseResult
from replay_core.studies.report import read_result


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of what the command learned on 48 prompts of demo_narrow, and what it printed."""
    folder = tmp_path_factory.mktemp("learned")
    words = ["amortise", "demo_narrow", "--n", "48", "--held-out", "8", "--epochs", "6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "quiet_logs", lambda: None)
        ended = CliRunner().invoke(app, [*words, "--output", str(folder)], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return folder, ended.output


def test_the_command_learns_a_map_that_does_most_of_the_loop(learned):
    folder, told = learned
    assert f"replay_start={folder}/amortised.safetensors" in told
    found = read_result(folder, "amortise", AmortiseResult)
    assert found.arms["map + 0 steps"].removed > 0.6
    assert found.arms["map + 5 steps"].removed > found.arms["5 steps from 0"].removed
    content = json.loads((folder / "amortise.json").read_text())
    assert content["settings"]["task"] == "replay_demo_dev"
    assert content["settings"]["learned"]["pair"] == "demo_narrow"


@pytest.mark.parametrize("way", ["replay_method=amortised", "replay_steps=2,replay_keep=best"])
def test_the_harness_answers_with_it(learned, lmms_eval, way):
    given = f"pair=demo_narrow,replay_start={learned[0]}/amortised.safetensors,{way}"
    run = lmms_eval("qwen2_vl_replay", given, "replay_demo_dev", "--limit", "8")
    assert run.code == 0, run.output
    replay = run.results["replay"]
    assert replay["totals"]["outcomes"] == {"applied": 8}
    assert replay["config"]["start"]["path"].endswith("amortised.safetensors")
    alone = way == "replay_method=amortised"
    # Of one model alone there is no other revision: the base was not loaded.
    assert (replay["base_revision"] == replay["policy_revision"]) is alone
    for record in run.records:
        assert record["delta_norm"] > 0
        assert (record["loss_before"] is None) is alone
        if not alone:
            assert record["loss_after"] <= record["loss_start"] < record["loss_before"]


def test_another_pairs_map_is_refused_before_models_are_loaded(learned, monkeypatch):
    monkeypatch.setattr("replay_adapters.session.standin.load_pair", None)
    given = f"pair=demo,replay_start={learned[0]}/amortised.safetensors"
    with pytest.raises(UsageError, match="was learned for another policy"):
        LmmsEvalBench(given, "replay_demo_dev", device="cpu")
