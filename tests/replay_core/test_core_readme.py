"""The core's README names every file, field and outcome, and its example runs."""

import csv
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


STEPS = {
    "pair": "`{pair}`",
    "optimiser": "{optimizer}",
    "median steps": "{median_steps:.0f}",
    "there within 8": "{share_in_8:.1%}",
    "within 25": "{share_in_25:.1%}",
    "left after 8": "{median_left_after_8:.1%}",
    "after 25": "{median_left_after_25:.2%}",
}
ANSWERS = {
    "pair": "`{pair}`",
    "arm": "{arm}",
    "score": "{score:.3f}",
    "fixed/broken": "{fixed:.0f}/{broken:.0f}",
    "p": "{p:.2g}",
    "equal answers": "{equal_answers:.1%}",
    "mean steps": "{mean_steps:.1f}",
}


def measured(file: str) -> list[dict[str, Any]]:
    """Return a benchmark's rows, numbers as such."""

    def value(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    with (ROOT.parent / "tests" / "benchmarks" / "results" / file).open(newline="") as lines:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def told(columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """Return rows as a table of the README; what compares nothing with itself is empty."""
    lines = [list(columns), ["---"] * len(columns)]
    for row in rows:
        itself = row.get("p") == ""
        lines.append(
            [
                "" if itself and k in ("fixed/broken", "p") else v.format(**row)
                for k, v in columns.items()
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@pytest.mark.parametrize(
    ("file", "columns", "n"), [("steps.csv", STEPS, 300), ("steps_answers.csv", ANSWERS, 500)]
)
def test_the_steps_are_those_that_were_measured(file: str, columns: dict[str, str], n: int) -> None:
    rows = measured(file)
    assert told(columns, rows) in README
    assert {row["n"] for row in rows} == {n}
    assert f"{n} items" in README


def test_what_is_said_of_the_steps_is_so() -> None:
    """At most 8 in the median, and at least 97% there in 25; no answers that are worse."""
    ours = [row for row in measured("steps.csv") if row["optimizer"] == "lbfgs"]
    assert [row["pair"] for row in ours] == ["demo_drifted", "demo_narrow"]
    assert all(row["median_steps"] <= 8 and row["share_in_25"] >= 0.97 for row in ours)
    answers = measured("steps_answers.csv")
    assert {(row["dtype"], row["device"] != "") for row in answers} == {("float32", True)}
    arms = [row for row in answers if row["arm"].startswith(("lbfgs", "plain, 8", "plain, 10"))]
    assert len(arms) == 10
    assert all(row["p"] > 0.05 for row in arms)
    other = [1 - row["equal_answers"] for row in arms if row["arm"].startswith("lbfgs")]
    assert f"{min(other):.0%} to {max(other):.0%} of them read differently" in README
