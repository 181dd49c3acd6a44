"""Rows of VLMEvalKit's sets, in the columns of the data sets, for the written answers.

Each asks which colour a car has, of (A) red, (B) blue, (C) green and (D) grey; (B) is right.
"""

import base64
import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from replay_adapters.runs.reader import read_runs
from replay_adapters.vlmevalkit.journal import Journal, shown
from replay_adapters.vlmevalkit.scoring import score_every_sample
from tests.support.lab.answers import LETTERS

Row = dict[str, Any]
OPTIONS = {"A": "red", "B": "blue", "C": "green", "D": "grey"}
_STEPS = (
    *(f"2steps_{step}" for step in (1, 2, "multi")),
    *(f"3steps_{step}" for step in (1, 2, 3, "multi")),
)


def _letters(number: int) -> Row:
    return {"question": f"Which colour has car {number}?", **OPTIONS, "answer": "B"}


def _wemath(number: int) -> Row:
    key = {"ID": str(number // 7), "key": _STEPS[number % 7]}
    return {
        **_letters(number),
        **key,
        "knowledge concept": "Understanding Angles (Using a Protractor)",
    }


def _mlvu(number: int) -> Row:
    asked = {
        "question": f"Which colour has car {number}?",
        "candidates": str(list(OPTIONS.values())),
    }
    return {**asked, "answer": "blue", "task_type": ["plotQA", "count"][number % 2]}


def _videommmu(number: int) -> Row:
    asked = {"question": f"Which colour has car {number}?", "question_type": "multiple-choice"}
    options = {"options": json.dumps(list(OPTIONS.values())), "category": "Adaptation"}
    return {"id": f"validation_Biology_{number}", **asked, **options, "answer": "B"}


def _with(**more: Any) -> Callable[[int], Row]:
    return lambda number: {**_letters(number), **more}


@dataclass(frozen=True)
class LabSet:
    """One set: how a row of it looks, and where the harness has its class."""

    row: Callable[[int], Row]
    module: str
    kind: str
    is_mcq: bool = True

    def rows(self) -> list[Row]:
        """Return one row for each written answer."""
        return [{"index": number, **self.row(number)} for number in range(len(LETTERS))]

    def make(self, task: str, table: pd.DataFrame) -> Any:
        """Return the harness's set of these rows, whose ``evaluate`` scores."""
        import importlib

        made = object.__new__(
            getattr(importlib.import_module(f"vlmeval.dataset.{self.module}"), self.kind)
        )
        if self.is_mcq:
            made.data, made.dataset_name = table.drop(columns="prediction"), task
        return made

    def write(self, task: str, data: Path) -> None:
        """Write the set as the harness reads it from its data folder, with small pictures."""
        rows = []
        for row in self.rows():
            picture = io.BytesIO()
            Image.new("RGB", (56, 84), (9 * row["index"], 80, 160)).save(picture, format="PNG")
            rows.append({**row, "image": base64.b64encode(picture.getvalue()).decode()})
        data.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(data / f"{task}.tsv", sep="\t", index=False)


MCQ = "image_mcq"
SETS = {
    "VStarBench": LabSet(_letters, MCQ, "ImageMCQDataset"),
    "HRBench4K": LabSet(_with(category="cross", cycle_category="0"), MCQ, "HRBenchDataset"),
    "HRBench8K": LabSet(_with(category="cross", cycle_category="0"), MCQ, "HRBenchDataset"),
    "MMMU_DEV_VAL": LabSet(
        _with(split="validation", category="Art", **{"l2-category": "Art"}), MCQ, "MMMUDataset"
    ),
    "MMMU_Pro_10c": LabSet(_letters, MCQ, "MMMUProDataset"),
    "MMMU_Pro_10c_COT": LabSet(_letters, MCQ, "MMMUProDataset"),
    "MMMU_Pro_V": LabSet(_letters, MCQ, "MMMUProDataset"),
    "WeMath": LabSet(_wemath, MCQ, "WeMath"),
    "WeMath_COT": LabSet(_wemath, MCQ, "WeMath"),
    "MLVU_MCQ": LabSet(_mlvu, "mlvu", "MLVU_MCQ", is_mcq=False),
    "VideoMMMU": LabSet(_videommmu, "videommmu", "VideoMMMU", is_mcq=False),
    "Video_Holmes": LabSet(_with(question_type="SR"), "video_holmes", "Video_Holmes", is_mcq=False),
}


def scored(task: str, predictions: Sequence[str], folder: Path) -> list[bool]:
    """Return what the harness's own scorer makes of predictions, one for each row."""
    from vlmeval.smp import dump

    place = folder / "M" / "T1"
    place.mkdir(parents=True)
    rows = SETS[task].rows()
    pairs = list(zip(rows, predictions, strict=True))
    table = pd.DataFrame([{**row, "prediction": shown(text)} for row, text in pairs])
    dump(table, str(place / f"M_{task}.tsv"))
    journal = Journal(place.parent, task)
    for row, text in pairs:
        journal.add({"index": row["index"], "predictions": [text], "replay": [{}]})
    (journal.folder / "settings.json").write_text(json.dumps({"config": {"method": "none"}}))
    made = SETS[task].make(task, table)
    score_every_sample(made, journal)
    journal.finish(row["index"] for row in rows)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        made.evaluate(str(place / f"M_{task}.tsv"), model="exact_matching", nproc=1)
    (log,) = read_runs(folder, [task])
    return [log.scores[str(row["index"])] == 1 for row in rows]
