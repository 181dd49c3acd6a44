"""The root import: the public names, without waiting for torch until one of them needs it."""

import subprocess
import sys

import pytest

import replay_core


def loaded_by(code: str) -> set[str]:
    """Return which of the heavy packages a new process has imported after ``code``."""
    heavy = "{'torch', 'transformers', 'numpy', 'scipy', 'pandas', 'lmms_eval', 'vlmeval'}"
    told = f"{code}\nimport sys; print(' '.join({heavy} & {{*sys.modules}}))"
    ended = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import replay_core; replay_core.UsageError, replay_core.ReplayConfig",
        "import replay_adapters.lmms_eval, replay_adapters.vlmevalkit",
        "import typer.testing, replay_adapters.cli as cli\n"
        "typer.testing.CliRunner().invoke(cli.app, ['--help'])",
        "import typer.testing, replay_adapters.cli as cli\n"
        "typer.testing.CliRunner().invoke(cli.app, ['pairs'])",
        "import typer.testing, replay_adapters.cli as cli\n"
        "typer.testing.CliRunner().invoke(cli.app, ['drift', '--quantiles', '1'])",
    ],
    ids=["root", "entry points", "help", "pairs", "refusal"],
)
def test_what_needs_no_model_imports_no_heavy_package(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_probe_sees_what_is_imported() -> None:
    assert loaded_by("import replay_core; replay_core.Steered") >= {"torch", "transformers"}


def test_every_public_name_is_there_and_no_other() -> None:
    for name in replay_core.__all__:
        assert getattr(replay_core, name).__name__ == name
    assert dir(replay_core) == replay_core.__all__
    with pytest.raises(AttributeError, match="no attribute 'Sterred'"):
        _ = replay_core.Sterred
