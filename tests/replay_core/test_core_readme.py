"""The core's README names every file, field and outcome, and its example runs."""

import re
from pathlib import Path
from typing import Any

import pytest

import replay_core
from replay_core import Outcome, ReplayRecord
from tests.replay_core.helpers import Loaded

ROOT = Path(replay_core.__file__).parent
README = (ROOT / "README.md").read_text("utf-8")


def first_cells() -> set[str]:
    """Return every name that stands in the first column of a table."""
    rows = re.findall(r"^\| ([^|]*) \|", README, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_outcome_and_every_field_of_a_record_has_a_line() -> None:
    assert {
        outcome.value for outcome in Outcome
    } | ReplayRecord.model_fields.keys() <= first_cells()


def test_every_file_and_room_is_on_the_map_and_no_other() -> None:
    files = {path.name for path in ROOT.rglob("*.py") if "studies" not in path.parts}
    rooms = {f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    told = {name for name in first_cells() if name.endswith((".py", "/"))}
    assert told == (files - {"__init__.py"}) | rooms


def test_files_stand_behind_what_they_import() -> None:
    rows = re.findall(r"^\| (`[^|]*\.py`[^|]*) \|", README, flags=re.MULTILINE)
    place = {name: n for n, row in enumerate(rows) for name in re.findall(r"`([^`]+)\.py`", row)}
    for path in ROOT.rglob("*.py"):
        if "studies" not in path.parts and path.stem in place:
            for target in re.findall(
                r"^from replay_core\.(?:\w+\.)*(\w+) import", path.read_text(), re.M
            ):
                assert place[target] <= place[path.stem], (path.stem, target)


def test_the_example_runs(one: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = code.replace('"me/my-rl"', repr(str(one.folders.policy)))
    code = code.replace('"me/my-base"', repr(str(one.folders.base)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"inputs": dict(one.batch("one_image"))}
    exec(code, names)
    assert names["answers"].new.shape == names["log_probs"].shape
    assert (tmp_path / "targets.safetensors").is_file()
