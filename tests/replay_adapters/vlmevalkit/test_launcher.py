"""The command line: what is refused before the harness is imported, and what reaches it."""

import json
import subprocess
import sys
import types
from collections import Counter

import pytest

from replay_adapters.settings import pairs
from replay_adapters.vlmevalkit import launcher, planned


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run the command and return the one line that it prints; the harness is not imported."""
    monkeypatch.setattr(launcher, "load_run_script", lambda checkout: pytest.fail("too late"))

    def run(*argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vlmeval_replay", *argv])
        with pytest.raises(SystemExit) as ended:
            launcher.main()
        assert ended.value.code == 2
        (told,) = capsys.readouterr().err.strip().splitlines()
        return told

    return run


DEMO = ("--model", "demo-replay", "--data", "replay_demo")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--model", "demo-repaly", "--data", "x"), "did you mean demo-replay?"),
        (("--model", "GPT4o-none", "--data", "x"), "is not a model of VLMEvalKit"),
        (("--model", "demo-replay"), "--data is missing"),
        (("--data", "x"), "--model is missing"),
        (("--model", "demo-replay", "--data", "MMStar"), "cannot be answered by the embedded pair"),
        ((*DEMO, "--replay", "treshold=0.2"), "did you mean threshold?"),
        ((*DEMO, "--replay", "threshold=2"), "replay_threshold=2 is not allowed"),
        ((*DEMO, "--replay", "method=base"), "the method is the end of the model's name"),
        ((*DEMO, "--samples", "many"), "samples=many is not allowed"),
        ((*DEMO, "--samples", "4"), "needs a temperature above 0"),
        ((*DEMO, "--replay", "layers=99"), "replay_layers=99 is not possible"),
        ((*DEMO, "--vlmevalkit", "/nowhere"), "--vlmevalkit /nowhere is not a checkout"),
        (("--model", "GPT4o", "--data", "x", "--samples", "4"), "--model GPT4o names none"),
        ((*DEMO, "--repaly", "steps=3"), "--repaly is not an argument; did you mean --replay?"),
        ((*DEMO, "--judge-modle=x"), "--judge-modle is not an argument"),
        (("--config", "nosuch.json"), "--config nosuch.json cannot be read"),
        (("--config", "x.json", "--samples", "4"), "do not go with it"),
    ],
)
def test_bad_input_is_one_sentence(refused, argv, told):
    assert told in refused(*argv)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a run file"),
        ('{"model": {"a": {}}, "data": {}}', "is not a run file"),
        ('{"model": {"a": {}}, "data": {"b": {}}}', "--model a is not a model of VLMEvalKit"),
        ('{"model": {"a": {"class": "Qwen2VLChatReplai"}}, "data": {"b": {}}}', "neither a class"),
        (
            '{"model": {"a": {"class": "Qwen2VLChatReplay", "pair": "dem"}}, "data": {"b": {}}}',
            "pair=dem is neither a shipped pair nor a pair file; did you mean 'demo'",
        ),
        (
            '{"model": {"demo-none": {"replay_step": 3}}, "data": {"replay_demo": {}}}',
            "did you mean replay_steps?",
        ),
        (
            '{"model": {"a": {"class": "Qwen3VLChatReplay", "pair": "demo"}}, "data": {"b": {}}}',
            "is a qwen2_5_vl checkpoint, which Qwen3VLChatReplay cannot answer",
        ),
    ],
)
def test_a_bad_run_file_is_one_sentence(refused, tmp_path, content, told):
    file = tmp_path / "run.json"
    file.write_text(content)
    assert told in refused("--config", str(file), "--work-dir", str(tmp_path))


def test_our_models_get_their_full_names_and_the_harness_keeps_its_own_arguments():
    argv = [*DEMO, "--mode", "infer", "--replay", "steps=3", "--judge", "exact_matching"]
    run = launcher.prepare(argv)
    (full,) = run.ours
    assert full.rpartition("-")[0] == "demo-replay"
    assert run.ours[full].arguments == {
        "pair": "demo",
        "replay_method": "replay",
        "replay_steps": 3,
    }
    assert run.argv == [
        *("--mode", "infer", "--judge", "exact_matching", "--work-dir", "./outputs"),
        *("--model", full, "--data", "replay_demo"),
    ]
    (other,) = launcher.prepare([*DEMO, "--replay", "steps=4"]).ours
    assert other != full
    assert list(launcher.prepare([*DEMO, "--replay", "steps=3"]).ours) == [full]


def test_a_run_reads_each_pair_file_and_plans_each_model_once(monkeypatch, tmp_path):
    read, plans = Counter(), []
    parse, plan = pairs.read_mapping, planned.plan

    def parsing(path, *told):
        read[path] += 1
        return parse(path, *told)

    def planning(*given):
        plans.append(given)
        return plan(*given)

    pairs._parsed.cache_clear()
    monkeypatch.setattr(pairs, "read_mapping", parsing)
    monkeypatch.setattr(planned, "plan", planning)
    run = launcher.prepare(["--model", "demo-replay", "demo-none", "--data", "replay_demo"])
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"model": {"demo-base": {}}, "data": {"replay_demo": {}}}))
    launcher.prepare(["--config", str(file), "--work-dir", str(tmp_path)])
    assert len(read) == len(pairs.pair_names())
    assert set(read.values()) == {1}
    assert len(plans) == 3
    assert [planned.Build(given).planned for given in run.ours.values()] == list(run.ours.values())
    assert len(plans) == 3


def test_a_run_file_reaches_the_harness_with_full_names_and_classes(tmp_path):
    file = tmp_path / "run.json"
    stock = {"class": "Qwen2VLChat", "model_path": "somewhere"}
    models = {"demo-none": {}, "mine": {"class": "Qwen2VLChatReplay", "pair": "demo"}}
    data = {"replay_demo": {"class": "CustomVQADataset", "dataset": "replay_demo"}}
    file.write_text(json.dumps({"model": {**models, "stock": stock}, "data": data}))
    run = launcher.prepare(["--config", str(file), "--work-dir", str(tmp_path / "out")])
    written = json.loads((tmp_path / "out" / run.argv[-1].rpartition("/")[2]).read_text())
    assert written["data"] == data
    none, mine, untouched = written["model"]
    assert none.startswith("demo-none-")
    assert mine.startswith("mine-")
    assert untouched == "stock"
    assert written["model"]["stock"] == stock
    assert written["model"][none] == {
        "class": "Qwen2VLChatReplay",
        "pair": "demo",
        "replay_method": "none",
    }


@pytest.mark.parametrize("argv", [["--help"], ["--model", "demo-replay", "-h"]])
def test_help_is_the_run_scripts_own_with_ours_behind_it(harness, monkeypatch, capsys, argv):
    monkeypatch.setattr(sys, "argv", ["vlmeval_replay", *argv])
    with pytest.raises(SystemExit) as ended:
        launcher.main()
    told = capsys.readouterr().out
    assert not ended.value.code
    assert told.startswith("usage: vlmeval_replay")
    assert told.index("--judge-base-url") < told.index("--replay NAME=VALUE")
    assert told.rstrip().endswith(launcher.options().rstrip())


@pytest.mark.parametrize(("rank", "told"), [("0", "failed: demo-replay-"), ("1", "")])
def test_a_process_that_stops_ends_with_1_and_the_first_says_what_is_answered(
    monkeypatch, capsys, tmp_path, rank, told
):
    """Upstream's own processes end with 0."""

    def stops():
        sys.exit(launcher.FAILED)

    script = types.SimpleNamespace(main=stops)
    monkeypatch.setattr(launcher, "load_run_script", lambda checkout: script)
    monkeypatch.setattr("replay_adapters.vlmevalkit.register", lambda models=None: [])
    monkeypatch.setattr(launcher, "check_data", lambda named: None)
    monkeypatch.setattr(sys, "argv", ["vlmeval_replay", *DEMO, "--work-dir", str(tmp_path)])
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as ended:
        launcher.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert told in said
    assert ("vlmeval_replay: " in said) == (rank == "0")


def test_names_are_read_from_the_harness_source_without_importing_it():
    code = (
        "import sys; from replay_adapters.vlmevalkit import upstream as l;"
        "assert {'GPT4o', 'Qwen2.5-VL-7B-Instruct'} <= l.stock_models(None);"
        "assert {'Qwen2VLChat', 'Qwen3VLChat', 'GPT4V'} <= l.stock_classes(None);"
        "assert 'vlmeval' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "argv", [("--model", "demo-repaly", "--data", "x"), (*DEMO, "--replay", "treshold=1")]
)
def test_a_misspelt_name_is_refused_without_waiting_for_torch(argv):
    code = (
        "import sys; from replay_adapters.vlmevalkit.launcher import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "False\n")
    assert "did you mean" in ended.stderr
