"""What a cell lacks that can be told before it is run, and before anything is downloaded."""

import importlib.util
from functools import cache
from pathlib import Path

from replay_adapters.lmms_eval.judges import no_judge
from replay_adapters.runs.plan import Cell
from replay_adapters.settings.run_files import Harness
from replay_adapters.vlmevalkit.fetching import check_sets
from replay_adapters.vlmevalkit.judges import check_judges
from replay_adapters.vlmevalkit.upstream import package_folder
from replay_core import UsageError


def lacks(cell: Cell) -> str | None:
    """Return what a cell lacks, and what to do; None where nothing is known to be missing."""
    asking, pair = cell.asking, cell.settings.pair
    models = (pair.policy, pair.base) if cell.settings.config.asks_base else (pair.policy,)
    found = (_harness(asking.harness, cell.task, cell.judge, asking.more), *map(_absent, models))
    return next((why for why in found if why), None)


@cache
def _harness(harness: Harness, task: str, judge: str | None, more: tuple[str, ...]) -> str | None:
    """Return what the harness lacks for a task: itself, its scorer's judge, or a way to the set."""
    if harness == "lmms-eval":
        if importlib.util.find_spec("lmms_eval") is None:
            return (
                "lmms-eval is not installed; install it with: pip install "
                "'activation-replay[lmms-eval]'"
            )
        why = no_judge() if judge else None
        return why and f"the answers to {task} are scored by a judge, but {why}"
    try:
        package = package_folder(None)
        check_judges([task], more, package)
        check_sets([task])
    except UsageError as error:
        return str(error)
    return None


@cache
def _absent(model: str) -> str | None:
    """Return that a checkpoint is neither a folder nor kept, where none may be downloaded."""
    from huggingface_hub import constants, try_to_load_from_cache

    if not constants.HF_HUB_OFFLINE or Path(model).is_dir():
        return None
    files = ("config.json", "adapter_config.json")
    if any(isinstance(try_to_load_from_cache(model, file), str) for file in files):
        return None
    return (
        f"{model} is not in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE=1 forbids to download it; "
        "unset that, or set HF_HOME to where it is"
    )
