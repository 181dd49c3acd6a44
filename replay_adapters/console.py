"""What the commands around the harnesses have in common."""

import sys
from typing import NoReturn

BAD_INPUT = 2


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


def refuse(program: str, reason: object) -> NoReturn:
    """Say why in one sentence, and exit as for bad input."""
    print(f"{program}: {reason}", file=sys.stderr)
    sys.exit(BAD_INPUT)
