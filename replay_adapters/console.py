"""What the commands have in common: refusals, exit codes and quiet logs."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

FAILED = 1
BAD_INPUT = 2
FAULTY = 3
"""Everything was answered and scored, but some samples ended in a fault."""


class Harness(StrEnum):
    """The harnesses that a command can have its runs made by."""

    LMMS_EVAL = "lmms-eval"
    VLMEVALKIT = "vlmevalkit"


def run(command: Callable[[], object], program: str = "activation-replay") -> None:
    """Call ``command``; what the user got wrong is one sentence and exit code 2."""
    from replay_core import UsageError

    try:
        command()
    except UsageError as error:
        refuse(program, error)


def check_output(option: str, folder: Path) -> None:
    """Raise UsageError where a folder to write to is a file, or lies below one."""
    from replay_core import UsageError
    from replay_core.errors import shown

    for place in (folder, *folder.parents):
        try:
            there, fits = place.exists(), place.is_dir()
        except OSError as error:
            raise UsageError(
                f"{option} {shown(folder)} cannot be written to: {error.strerror}"
            ) from error
        if there and not fits:
            raise UsageError(
                f"{option} {shown(folder)} cannot be a folder: {shown(place)} is a file (allowed: "
                "a folder, or a place for one)"
            )


def refuse(program: str, reason: object) -> NoReturn:
    """Say why in one sentence, and exit as for bad input."""
    print(f"{program}: {reason}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def check_transformers(program: str, extra: str) -> None:
    """Exit with one sentence when transformers is older than the doors that we use."""
    from importlib.metadata import version

    from packaging.version import Version

    found, needed = version("transformers"), "5.18"
    if Version(found) < Version(needed):
        refuse(
            program,
            f"transformers {found} is installed, but {needed} or newer is needed; make a fresh "
            "environment with: python -m venv .venv && .venv/bin/pip install "
            f"'activation-replay[{extra}]'",
        )


def quiet_logs() -> None:
    """Show warnings and errors only: a study has a progress bar of its own."""
    import transformers
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    transformers.utils.logging.disable_progress_bar()
