"""The doctor names what differs from the tested set, and notices a harness that does not answer."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from replay_adapters.doctor import (
    Difference,
    bounds,
    differences,
    installed_versions,
    pinned_versions,
)


@pytest.fixture(scope="module")
def examined(tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """The doctor's report where a filelock 4 without ``_api`` stands in front of the tested one."""
    folder = tmp_path_factory.mktemp("packages")
    spec = find_spec("filelock")
    assert spec is not None
    assert spec.origin is not None
    package = shutil.copytree(Path(spec.origin).parent, folder / "filelock")
    (package / "_api.py").rename(package / "_renamed.py")
    for module in package.rglob("*.py"):
        module.write_text(module.read_text().replace("._api", "._renamed"))
    about = folder / "filelock-4.0.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: filelock\nVersion: 4.0.2\n")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "replay_adapters.cli", "doctor"],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_filelock_that_lmms_eval_cannot_import_is_named_with_its_reason(examined):
    tested = version("filelock")
    (line,) = [line for line in examined.stdout.splitlines() if line.startswith("filelock")]
    assert f"4.0.2 (tested: {tested}): known to break: filelock<4 is needed" in line
    assert "lmms-eval 0.7.3 imports filelock._api" in line


def test_both_harnesses_are_asked_for_a_real_answer(examined):
    lines = examined.stdout.splitlines()
    (lmms,) = [line for line in lines if line.startswith("lmms-eval ")]
    assert "does not answer: " in lmms
    assert "ModuleNotFoundError: No module named 'filelock._api'" in lmms
    (vlm,) = [line for line in lines if line.startswith("ms-vlmeval ")]
    assert vlm.endswith("answers")
    assert examined.returncode == 1


def test_the_tested_set_holds_what_we_require_and_lies_within_our_bounds():
    tested = pinned_versions()
    allowed = bounds({name: "" for name in ("lmms-eval", "ms-vlmeval", "matplotlib", "peft")})
    assert {"torch", "transformers", "lmms-eval", "ms-vlmeval", "filelock", "peft"} <= {*allowed}
    assert not [difference for difference in differences(tested, tested, allowed)]


def test_differences_are_what_is_installed_otherwise_and_what_is_needed_and_missing():
    allowed = {"one": SpecifierSet("<2"), "two": SpecifierSet(), "three": SpecifierSet(">=1")}
    tested = {"one": "1.5", "two": "1.0", "three": "1.0", "four": "4.0", "five": "5.0"}
    installed = {"one": "2.0", "two": "1.1", "four": "4.0", "six": "6.0"}
    assert list(differences(installed, tested, allowed)) == [
        Difference("one", "2.0", "1.5", "one<2 is needed"),
        Difference("three", "not installed", "1.0", "three>=1 is needed"),
        Difference("two", "1.1", "1.0", None),
    ]


def test_an_extra_that_is_not_in_use_bounds_nothing():
    installed = installed_versions()
    assert "filelock" in bounds(installed)
    installed.pop("lmms-eval")
    assert "filelock" not in bounds(installed)
