"""The embedded pair's scripts, loaded from their files."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

from replay_adapters.settings.resources import resource

FOLDER = resource("configs") / "pairs" / "demo"
TRAINING = ("checkpoint", "packing", "measure", "paths", "recipes", "train", "evaluate")
RESULTS = ("findings", "tables", "claims", "page", "chosen", "results")


def load(names: tuple[str, ...]) -> SimpleNamespace:
    """Return scripts by their names; they import each other by name, so each after its own."""
    taken = {name: sys.modules.get(name) for name in names}
    loaded: dict[str, ModuleType] = {}
    try:
        for name in names:
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            sys.modules[name] = loaded[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded[name])
    finally:
        for name, module in taken.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
    return SimpleNamespace(**loaded)
