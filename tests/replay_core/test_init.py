"""The package's front door: all its names are there, and the light ones cost nothing."""

import subprocess
import sys

import pytest

import replay_core


@pytest.mark.parametrize("name", replay_core.__all__)
def test_every_name_is_the_one_that_its_module_defines(name: str) -> None:
    found = getattr(replay_core, name)
    assert found.__name__ == name
    assert getattr(sys.modules[found.__module__], name) is found
    assert found.__module__.startswith("replay_core.")
    assert name in dir(replay_core)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'replay_core' has no attribute 'Stered'"):
        replay_core.Stered  # noqa: B018


def test_settings_and_errors_need_no_torch() -> None:
    code = (
        "import sys; from replay_core import ReplayConfig, UsageError; ReplayConfig(); "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "False"]
