"""Sets made on the spot, and VLMEvalKit run as a user runs it: in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch

from replay_core.jsonl import read_lines
from tests.support.vlmeval_sets import make_clips, make_pictures

REPLAY = {"replay_layers": 3, "replay_threshold": 0.7, "replay_step_size": 3}
# Qwen2.5-VL's processor would enlarge every picture to 256 tokens.
SMALL = {"min_pixels": 3136, "max_pixels": 50176, "max_new_tokens": 8, "use_custom_prompt": False}
PICTURES = {"pictures": {"class": "CustomMCQDataset", "dataset": "pictures"}}
CLIPS = {"Holmes_4frame": {"class": "Video_Holmes", "dataset": "Video_Holmes", "nframe": 4}}


@dataclass(frozen=True)
class Sets:
    """Folders of the sets, and the pictures' indices in order."""

    data: Path
    clips: Path
    indices: list[int]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a run on these sets."""
        ours = {"LMUData": str(self.data), "CLIPS": str(self.clips), "PRED_FORMAT": "tsv"}
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **ours, **offline, **more}


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Sets:
    root = tmp_path_factory.mktemp("sets")
    make_clips(root / "clips")
    return Sets(root / "data", root / "clips", make_pictures(root / "data"))


@dataclass(frozen=True)
class Answers:
    """What one model left in the work folder for one set, read back from the files."""

    folder: Path
    dataset: str

    @property
    def predictions(self) -> dict[Any, str]:
        """Index → prediction, from the harness's own file."""
        (path,) = self.folder.glob(f"{self.folder.name}_{self.dataset}.tsv")
        table = pd.read_csv(path, sep="\t", keep_default_na=False)
        return dict(zip(table["index"], table["prediction"].astype(str), strict=True))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of our file beside it."""
        return read_lines(self.folder / "replay" / f"{self.dataset}.jsonl")

    @property
    def totals(self) -> dict[str, Any]:
        path = self.folder / "replay" / f"{self.dataset}.totals.json"
        return json.loads(path.read_text())


def answers(work: Path, model: str, dataset: str) -> Answers:
    """Return the answers of a model, whose folder also carries the settings' fingerprint."""
    exact = work / model
    if exact.is_dir():
        return Answers(exact, dataset)
    (found,) = [path for path in work.glob(f"{model}-*") if path.is_dir()]
    return Answers(found, dataset)


def write_run_file(path: Path, models: dict[str, Any], data: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"model": models, "data": data}))
    return path


Vlmeval = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def vlmeval(sets) -> Vlmeval:
    """Run the command with arguments; ``module`` says through which module, ``more`` is env."""

    def run(
        *arguments: str, module: str = "tests.support.vlmeval_main", **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=sets.environment(**more),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def tiny_model(tiny_pairs) -> Callable[..., dict[str, Any]]:
    """Return the entry of a run file for the tiny pair."""
    pair = tiny_pairs["qwen2_5_vl"]

    def entry(**options: Any) -> dict[str, Any]:
        checkpoints = {"model_path": str(pair.policy), "replay_base": str(pair.base)}
        return {"class": "Qwen2VLChatReplay", **checkpoints, **SMALL, **options}

    return entry


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """The package vlmeval in this process, with its classes registered and gradients as before.

    Importing it switches them off for everybody.
    """
    import vlmeval.run

    torch.set_grad_enabled(True)
    from replay_adapters.vlmevalkit import register

    register()
    return vlmeval
