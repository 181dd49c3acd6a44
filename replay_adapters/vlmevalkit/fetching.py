"""Whether VLMEvalKit can fetch the sets that are asked for, told before any weights are loaded."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from replay_core import UsageError

_SWITCH = "VLMEVALKIT_USE_MODELSCOPE"
_TOKEN = "HUGGINGFACE_TOKEN"
_MLVU = "MLVU/MVLU"  # as it is spelled on the hub


def check_sets(datasets: Iterable[str]) -> None:
    """Let sets come from the Hugging Face hub where modelscope is not installed.

    ms-vlmeval takes modelscope for granted, which it does not require. MLVU logs in to the hub,
    with a token from the environment or else by asking at the terminal.

    Raises:
        UsageError: modelscope is asked for and is not there, or MLVU has no token.
    """
    there = importlib.util.find_spec("modelscope") is not None
    wanted = os.environ.setdefault(_SWITCH, "1" if there else "0") in ("1", "True")
    if wanted and not there:
        raise UsageError(
            f"{_SWITCH}={os.environ[_SWITCH]} needs the package modelscope, which is not "
            f"installed; pip install modelscope, or set {_SWITCH}=0 for the Hugging Face hub"
        )
    if not wanted:
        for name in datasets:
            if name.startswith("MLVU"):
                _check_mlvu(name)


def _check_mlvu(name: str) -> None:
    from huggingface_hub import constants, get_token

    if os.environ.get(_TOKEN) or _kept(Path(constants.HF_HUB_CACHE)):
        return
    token = get_token()
    if token is None:
        raise UsageError(
            f"{name} is fetched from huggingface.co/datasets/{_MLVU}, to which one has to log in: "
            f"accept its terms there and set {_TOKEN} to a token of your account"
        )
    os.environ[_TOKEN] = token


def _kept(cache: Path) -> bool:
    """Whether the set was fetched before: then the harness does not log in."""
    folder = cache / f"datasets--{_MLVU.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/MLVU_MCQ.tsv"))
