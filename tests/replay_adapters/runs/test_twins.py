"""Which run is a steered run's twin, and by which command it is made."""

import json
import shlex

import pytest

from replay_adapters.runs.command_lines import command_line
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.submission import submit
from replay_adapters.runs.twins import with_twins
from replay_adapters.vlmevalkit import launcher
from replay_core import UsageError
from tests.replay_adapters.runs.test_compare import log, planted

ROWS = planted(20, 3, 1)


@pytest.fixture
def runs(tmp_path):
    """Return a run without and one with replay."""
    summary = {"policy": "me/rl", "policy_revision": "sha256:a"}
    a = log(tmp_path / "a", ROWS[0], summary=summary)
    b = log(tmp_path / "b", ROWS[1], method="replay", summary=summary)
    return a, b


def test_a_run_goes_with_the_one_that_differs_in_the_method_alone(runs, tmp_path):
    summary = {"policy": "me/rl", "policy_revision": "sha256:a"}
    other = log(tmp_path / "c", ROWS[0], summary=summary, changed={"tokens": 8})
    every = [run for folder in (other, *runs) for run in read_runs(folder)]
    ((twin, run),) = with_twins(every)
    assert (twin.path.parents[1], run.path.parents[1]) == runs


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"changed": {"tokens": 8}}, "max_new_tokens"),
        ({"changed": {"suffix": "Think."}}, "prompt differs"),
        ({"summary": {"policy_revision": "sha256:b"}}, "policy_revision is sha256:a in one"),
        ({"summary": {"policy": "me/other"}}, "policy is me/rl in one and me/other"),
        ({"task": "films"}, None),
    ],
)
def test_a_run_that_differs_in_more_is_no_twin_and_the_refusal_says_in_what(
    runs, tmp_path, change, why
):
    summary = {"policy": "me/rl", "policy_revision": "sha256:a", **change.pop("summary", {})}
    other = log(tmp_path / "c", ROWS[0], summary=summary, **change)
    every = [run for folder in (other, runs[1]) for run in read_runs(folder)]
    with pytest.raises(UsageError, match="the twin of pictures is missing") as refused:
        with_twins(every)
    assert (why or "is none, since") in str(refused.value) or why is None
    assert ("is none, since" in str(refused.value)) == (why is not None)


def test_what_was_not_steered_and_two_runs_of_a_task_are_refused(runs, tmp_path):
    a, b = runs
    with pytest.raises(UsageError, match=r"was steered .their methods: none."):
        submit([a], tmp_path / "out")
    again = log(tmp_path / "again", ROWS[1], method="replay", summary={"policy": "me/rl"})
    with pytest.raises(UsageError, match="two runs are of pictures in lmms-eval"):
        submit([a, b, again], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def arguments(folder, **given):
    """Write down the command line that a run was made with, as the harness does."""
    (path,) = folder.rglob("*_results.json")
    content = json.loads(path.read_text())
    content["config"]["resolved_cli_args"] = given
    path.write_text(json.dumps(content))


def test_the_command_keeps_what_was_typed_but_what_steers(runs):
    _, b = runs
    typed = "pair=demo,replay_method=replay,replay_layers=[0,2,5],max_pixels=12544"
    arguments(
        b,
        model="qwen2_vl_replay",
        model_args=typed,
        output_path="out put/b/",
        limit=50.0,
        batch_size="1",
        device="cuda:1",
        force_simple=True,
        seed=[0, 1234, 1234, 1234],
        gen_kwargs="max_new_tokens=16",
        num_fewshot=None,
    )
    with pytest.raises(UsageError) as refused:
        with_twins(read_runs(b))
    command = str(refused.value).splitlines()[-1]
    kept = "pair=demo,max_pixels=12544,replay_method=none"
    assert shlex.split(command) == [
        *("lmms_eval", "--model", "qwen2_vl_replay", "--model_args", kept, "--tasks", "pictures"),
        *("--device", "cuda:1", "--limit", "50", "--gen_kwargs", "max_new_tokens=16"),
        *("--force_simple", "--log_samples", "--output_path", "out put/b-none"),
    ]


def of_vlmevalkit(folder, run):
    """Write the files of a run of VLMEvalKit, planned from a command line, as the harness does."""
    ((full, planned),) = run.ours.items()
    model = folder / full
    (model / "replay").mkdir(parents=True)
    stamp = {"fingerprint": planned.fingerprint, "arguments": planned.arguments}
    settings = {**planned.settings.summary(), **stamp}
    (model / "replay" / "settings.json").write_text(json.dumps(settings))
    status = {"argv": ["run.py", *run.argv], "pred_format": "tsv"}
    (model / "status.json").write_text(json.dumps(status))
    (model / f"{full}_MyMCQ.tsv").write_text("index\tprediction\n1\tA\n2\tB\n")
    (model / f"{full}_MyMCQ_exact_matching_result.tsv").write_text("index\thit\n1\t1\n2\t0\n")
    return model


def test_a_run_by_a_models_name_has_a_twin_by_name(tmp_path):
    options = "threshold=0.2,layers=[0,1],max_new_tokens=32,protocol=task,strict=true"
    given = ["--model", "demo-replay", "--data", "replay_demo", "--replay", options]
    given += ["--judge", "exact_matching", "--judge-key", "sk-1", "--work-dir", str(tmp_path)]
    run = launcher.prepare(given)
    model = of_vlmevalkit(tmp_path, run)
    with pytest.raises(UsageError, match="the twin of MyMCQ is missing") as refused:
        with_twins(read_runs(model))
    assert "sk-1" not in str(refused.value)
    assert '--judge-key "$JUDGE_KEY"' in str(refused.value)
    words = shlex.split(str(refused.value).splitlines()[-1])
    assert words[:3] == ["env", "PRED_FORMAT=tsv", "vlmeval_replay"]
    words[words.index("MyMCQ")] = "replay_demo"  # the only set that the embedded pair answers
    twin = launcher.prepare(words[3:])
    ((name, theirs),) = twin.ours.items()
    assert name.startswith("demo-none-")
    (ours,) = run.ours.values()
    assert theirs.harness == ours.harness
    assert theirs.settings.protocol == ours.settings.protocol
    assert theirs.settings.config.method == "none"
    assert theirs.settings.config.strict is ours.settings.config.strict is True
    assert ours.arguments.keys() - theirs.arguments.keys() == {"replay_threshold", "replay_layers"}
    assert "exact_matching" in twin.argv
    ((same, again),) = launcher.prepare(
        shlex.split(command_line(read_runs(model), twin=False).replace("MyMCQ", "replay_demo"))[3:]
    ).ours.items()
    assert (same, again.fingerprint) == (next(iter(run.ours)), ours.fingerprint)
    assert twin.work_dir == tmp_path


def test_a_run_that_does_not_say_how_it_was_made_is_refused(tmp_path):
    run = launcher.prepare(["--model", "demo-replay", "--data", "replay_demo"])
    model = of_vlmevalkit(tmp_path, run)
    (model / "status.json").unlink()
    with pytest.raises(UsageError, match="does not say by which command MyMCQ was answered"):
        with_twins(read_runs(model))
