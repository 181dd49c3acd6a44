"""Both commands' ``--help`` list every option that is read, with its values and its default."""

import subprocess
import sys

import pytest

from replay_adapters.settings import help as shown
from replay_adapters.settings.options import resolve
from replay_adapters.settings.run_options import RunOptions
from replay_adapters.vlmevalkit import launcher
from replay_core import ReplayConfig, UsageError
from replay_core.decoding.options import EngineOptions
from tests.replay_adapters.test_readme import first_cells

LISTS = {"lmms-eval": shown.lmms_eval_options, "VLMEvalKit": launcher.options}


def read_options() -> list[str]:
    """Return what the resolver itself says it reads, and what a run takes without ``replay_``."""
    named = []
    for unknown in ("replay_zzz", "vllm_zzz"):
        with pytest.raises(UsageError) as refused:
            resolve({unknown: 1})
        named += str(refused.value).partition("Options: ")[2].split(", ")
    return [
        *named,
        "pair",
        "pretrained",
        "dtype",
    ]


def entry(text: str, name: str) -> str:
    """Return the lines on one option, as one."""
    (found,) = [part for part in text.split("\n\n") if part.startswith(f"  {name}  (")]
    return " ".join(found.split())


@pytest.fixture(params=LISTS)
def listed(request) -> str:
    return LISTS[request.param]()


@pytest.mark.parametrize("name", read_options())
def test_every_option_that_is_read_is_listed_and_in_the_readme(listed, name):
    assert len(entry(listed, name).partition(") ")[2]) > 15
    assert name in first_cells()


def test_nothing_else_is_listed(listed):
    names = [part.split()[0] for part in listed.split("\n\n") if part.startswith("  ")]
    assert sorted(names) == sorted(read_options())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("replay_threshold", "(a number above 0, at most 1; default 0.4) γ: an activation is"),
        ("replay_boundary", "(aligned or reference; default aligned) aligned: base after layer l"),
        ("replay_steps", "(a whole number from 0 to 100,000; default 25) Gradient steps, at most;"),
        ("replay_strict", "(true or false; default false) Raise what goes wrong"),
        ("replay_thresholds", "(dynamic, release, or a file that `activation-replay thresholds`"),
        ("replay_preset", "(a name under `presets` in the pair's file) Settings that a published"),
        ("dtype", "(auto, bfloat16, float16 or float32) What the models are loaded in."),
    ],
)
def test_an_option_is_told_with_values_default_and_meaning(listed, name, told):
    assert entry(listed, name).startswith(f"{name} {told}")


def test_the_help_for_vlmevalkit_says_what_its_replay_argument_does_not_take():
    from replay_adapters.vlmevalkit.arguments import parse_options

    text = launcher.options()
    for name in read_options():
        typed = name.removeprefix("replay_")
        told = "Not in --replay" not in entry(text, name)
        try:
            taken = set(parse_options(f"{typed}=1")) == {name} and typed != "method"
        except UsageError:
            taken = False
        assert told == taken, name


@pytest.mark.parametrize("model", [RunOptions, ReplayConfig, EngineOptions])
def test_every_option_has_values_and_a_meaning(model):
    meanings = shown.meanings_of(model)
    assert meanings.keys() == model.model_fields.keys()
    for name, field in model.model_fields.items():
        assert field.description
        assert meanings[name].endswith(".")
        assert "``" not in meanings[name]


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["--help"], True),
        (["-h"], True),
        (["--model", "x", "--help"], True),
        (["eval", "--help"], True),
        (["tasks", "--help"], False),
        (["--model", "x"], False),
        ([], False),
    ],
)
def test_help_is_the_commands_own_without_a_subcommand(argv, asked):
    assert shown.asks_for_help(argv) is asked


def test_lmms_evals_help_ends_with_the_options_and_needs_no_torch():
    code = (
        "import sys; from replay_adapters.lmms_eval.launcher import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    *told, torch_is_loaded = ended.stdout.splitlines()
    assert told[0].startswith("usage: lmms-eval")
    assert "\n".join(told).endswith(shown.lmms_eval_options())
    assert torch_is_loaded == "False"


def test_a_harness_whose_help_fails_keeps_its_exit_code(capsys):
    with pytest.raises(SystemExit) as ended:
        shown.print_help(lambda: sys.exit(3), "options")
    assert (ended.value.code, capsys.readouterr().out) == (3, "")
