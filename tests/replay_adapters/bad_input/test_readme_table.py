"""Each line of the README's table of bad input, tried; and each command once as users run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from replay_adapters import cli
from replay_adapters.lmms_eval import launcher as lmms_eval
from replay_adapters.vlmevalkit import launcher as vlmevalkit

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "replay_adapters" / "README.md").read_text("utf-8")
SECTION = PAGE.split("\n## Bad input\n")[1].split("\n## ")[0]
LINES = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", SECTION, re.MULTILINE)
MAINS = {
    "lmms_eval": (lmms_eval.main, "replay_adapters.lmms_eval.launcher"),
    "vlmeval_replay": (vlmevalkit.main, "replay_adapters.vlmevalkit"),
    "activation-replay": (cli.main, "replay_adapters.cli"),
}


def words_of(line: str) -> list[str]:
    """Return the words of a command, whose brackets and quotes stand as they are."""
    return line.replace("'", "").split()


def test_the_table_has_lines_of_every_command():
    assert {words_of(line)[0] for line, _ in LINES} == MAINS.keys()
    assert len(LINES) == SECTION.count("\n| `") >= 25


@pytest.mark.parametrize(("line", "words"), LINES)
def test_a_line_of_the_table(ended, no_weights, monkeypatch, tmp_path, line, words):
    monkeypatch.chdir(tmp_path)
    program, *given = words_of(line)
    monkeypatch.setattr(
        "lmms_eval.__main__.cli_evaluate_single", lambda args: pytest.fail("it began")
    )
    assert words in ended(MAINS[program][0], program, given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", MAINS)
def test_a_command_as_users_run_it(tmp_path, program):
    """In a process of its own: its exit code, and nothing but the sentence on standard error."""
    line, words = next((line, words) for line, words in LINES if line.startswith(program))
    run = [sys.executable, "-m", MAINS[program][1], *words_of(line)[1:]]
    ended = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    told = [line for line in ended.stderr.splitlines() if line.startswith(f"{program}: ")]
    assert len(told) == 1
    assert words in told[0]
    assert ended.stderr.strip().splitlines()[-1] == told[0]
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not list(tmp_path.iterdir())
