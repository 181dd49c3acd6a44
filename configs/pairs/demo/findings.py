"""What a pair's studies wrote, read in: a function per study, and nothing else reads them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Found(dict[str, Any]):
    """An object of a study's JSON; its keys are attributes as well, ``row.p`` for ``row["p"]``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def read_chosen(folder: Path) -> Found:
    """Return the arms that answered the test split with the settings that were chosen."""
    return _read(folder, "chosen")


def read_drift(folder: Path) -> Found:
    """Return drift by kind of positions and model."""
    return _read(folder, "drift")


def read_perturbation(folder: Path) -> Found:
    """Return the correlations of drift and perplexity under pixel noise."""
    return _read(folder, "perturbation")


def read_intervention(folder: Path) -> Found:
    """Return the arms that injected activations of the base."""
    return _read(folder, "intervention")


def read_grid(folder: Path) -> Found:
    """Return the cells of γ and α on the development split."""
    return _read(folder, "grid")


def read_controls(folder: Path) -> Found:
    """Return the control arms."""
    return _read(folder, "controls")


def read_passk(folder: Path) -> Found:
    """Return Pass@K by arm."""
    return _read(folder, "passk")


READERS: dict[str, Callable[[Path], Found]] = {
    "chosen": read_chosen,
    "drift": read_drift,
    "perturbation": read_perturbation,
    "intervention": read_intervention,
    "grid": read_grid,
    "controls": read_controls,
    "passk": read_passk,
}


@dataclass(frozen=True)
class Studies:
    """All that one pair's studies wrote."""

    chosen: Found
    drift: Found
    perturbation: Found
    intervention: Found
    grid: Found
    controls: Found
    passk: Found


def read_studies(folder: Path) -> Studies:
    """Return what the studies wrote into one pair's folder.

    Raises:
        OSError: a study's file is missing.
    """
    return Studies(**{name: read(folder) for name, read in READERS.items()})


def _read(folder: Path, study: str) -> Found:
    text = (folder / f"{study}.json").read_text(encoding="utf-8")
    return json.loads(text, object_hook=Found)
