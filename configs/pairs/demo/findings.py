"""What a pair's studies wrote, read back: how each was made, and its result."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from replay_core.studies.drift import DriftResult
from replay_core.studies.grid import GridResult
from replay_core.studies.passk import PassKResult
from replay_core.studies.perturbation import PerturbationResult
from replay_core.studies.report import read_result
from replay_core.studies.result import Result
from replay_core.studies.trial import TrialResult

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Study(Generic[R]):
    """One study of one pair."""

    settings: dict[str, Any]
    """What its file says of how it was made: n, batch_size, arms …"""
    result: R


@dataclass(frozen=True)
class Studies:
    """All that one pair's studies wrote."""

    chosen: Study[TrialResult]
    """The settings that were chosen, on the test split."""
    drift: Study[DriftResult]
    perturbation: Study[PerturbationResult]
    intervention: Study[TrialResult]
    grid: Study[GridResult]
    controls: Study[TrialResult]
    passk: Study[PassKResult]


def read_studies(folder: Path) -> Studies:
    """Return what the studies wrote into one pair's folder.

    Raises:
        OSError: a study's file is missing.
        pydantic.ValidationError: a file holds something else.
    """
    return Studies(
        chosen=_read(folder, "chosen", TrialResult),
        drift=_read(folder, "drift", DriftResult),
        perturbation=_read(folder, "perturbation", PerturbationResult),
        intervention=_read(folder, "intervention", TrialResult),
        grid=_read(folder, "grid", GridResult),
        controls=_read(folder, "controls", TrialResult),
        passk=_read(folder, "passk", PassKResult),
    )


def _read(folder: Path, study: str, kind: type[R]) -> Study[R]:
    content = json.loads((folder / f"{study}.json").read_text(encoding="utf-8"))
    return Study(content["settings"], read_result(folder, study, kind))
