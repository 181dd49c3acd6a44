"""lmms-eval's own tasks of the paper on rows made on the spot, in the columns of the data sets.

Each set is the harness's YAML with another ``dataset_path``; prompts, parsers and scorers are its
own. Every row comes with an answer and a person's verdict on it.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, Features, Image, Value

from tests.support.media import clip, png

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Answered:
    """A text that a model gave to a row, and whether it is right."""

    text: str
    right: bool


@dataclass(frozen=True)
class TaskSet:
    """One task: its YAML below the harness's tasks, its rows, and answers to them."""

    task: str
    source: str
    split: str
    rows: Rows
    answers: list[Answered]

    @property
    def right(self) -> list[bool]:
        """The person's verdicts."""
        return [answer.right for answer in self.answers]


def write_sets(folder: Path) -> list[TaskSet]:
    """Write all sets into ``folder``, as ``lmms_eval_main`` takes them, with clips for HF_HOME."""
    found = [make(folder) for make in _SETS]
    root = Path(str(find_spec("lmms_eval").origin)).parent / "tasks"  # type: ignore[union-attr]
    for one in found:
        table = folder / f"{one.task}.parquet"
        rows = Dataset.from_list(one.rows)
        pictures = {name for name in rows.column_names if name in ("image_1", "decoded_image")}
        features = Features(
            {k: Image() if k in pictures else v for k, v in rows.features.items()}
            | ({"image": Value("string")} if "image" in rows.column_names else {})
        )
        rows.cast(features).to_parquet(table)
        config = {
            "include": str(root / one.source),
            "task": one.task,
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {one.split: str(table)}},
        }
        (folder / f"{one.task}.yaml").write_text(yaml.safe_dump(config))
    return found


def _picture(number: int) -> dict[str, bytes]:
    return {"bytes": png(seed=number)}


def _mmmu(folder: Path) -> TaskSet:
    options = str(["Monet", "Degas", "Manet", "Seurat"])
    rows: Rows = [
        {
            "id": f"validation_{subject}_{number}",
            "question": f"<image 1> Who painted picture {number}?",
            "options": options if kind == "multiple-choice" else "[]",
            "image_1": _picture(number),
            "answer": answer,
            "question_type": kind,
        }
        for number, (subject, kind, answer) in enumerate(
            [
                ("Art", "multiple-choice", "B"),
                ("Art", "multiple-choice", "C"),
                ("Chemistry", "multiple-choice", "A"),
                ("Chemistry", "open", "24"),
                ("Chemistry", "open", "blue"),
                ("Finance", "multiple-choice", "D"),
            ]
        )
    ]
    answers = [
        Answered("B", True),
        Answered("(A)", False),
        Answered("A.", True),
        Answered("The answer is 24", True),
        Answered("it is red", False),
        Answered("(C)", False),
    ]
    return TaskSet("mmmu_val", "mmmu/mmmu_val.yaml", "validation", rows, answers)


def _mmmu_pro(folder: Path) -> TaskSet:
    options = str([f"shade {number}" for number in range(10)])
    rows: Rows = [
        {
            "id": f"test_{subject}_{number}",
            "subject": subject,
            "question": f"<image 1> Which shade has picture {number}?",
            "options": options,
            "image_1": _picture(number),
            "answer": answer,
        }
        for number, (subject, answer) in enumerate(
            [("Art", "J"), ("Art", "A"), ("Finance", "C"), ("History", "H"), ("Math", "B")]
        )
    ]
    texts = [("J", True), ("B", False), ("(C)", True), ("H", True), ("E", False)]
    answers = [Answered(*one) for one in texts]
    return TaskSet("mmmu_pro_standard", "mmmu_pro/mmmu_pro_standard.yaml", "test", rows, answers)


def _videommmu(folder: Path) -> TaskSet:
    (folder / "video_mmmu" / "Science").mkdir(parents=True)
    rows: Rows = []
    for number, (kind, answer) in enumerate(
        [
            ("multiple-choice", "B"),
            ("multiple-choice", "A"),
            ("open", "12.5"),
            ("open", "9"),
            ("multiple-choice", "C"),
            ("open", "7"),
        ]
    ):
        name = f"validation_Biology_{number}"
        clip(folder / "video_mmmu" / "Science" / f"{name}.mp4", 8, 4)
        rows.append(
            {
                "id": name,
                "question": f"What is shown in clip {number}?",
                "options": ["a cell", "a leaf", "a root"] if kind == "multiple-choice" else [],
                "answer": answer,
                "question_type": kind,
            }
        )
    answers = [
        Answered("B", True),
        Answered("C", False),
        Answered("The result is 12.5", True),
        Answered("it is 8", False),
        Answered("C", True),
        Answered("", False),  # which the harness takes for an error of an API
    ]
    source = "videommmu/adaptation.yaml"
    return TaskSet("video_mmmu_adaptation", source, "test", rows, answers)


def _mlvu(folder: Path) -> TaskSet:
    (folder / "mlvu").mkdir()
    rows: Rows = []
    kinds = ["count", "count", "count", "ego", "order", "plotQA"]
    for number, (kind, answer) in enumerate(zip(kinds, "ABCDAB", strict=True)):
        clip(folder / "mlvu" / f"{number}.mp4", 8, 4)
        rows.append(
            {
                "video_name": f"{number}.mp4",
                "question": f"How many squares?\n(A) {number}\n(B) 2\n(C) 3\n(D) 4",
                "answer": answer,
                "task_type": kind,
            }
        )
    texts = [("A", True), ("(B)", True), ("D", False), ("D", True), ("B", False), ("C", False)]
    answers = [Answered(*one) for one in texts]
    return TaskSet("mlvu_dev", "mlvu/mlvu_dev.yaml", "test", rows, answers)


def _mathvision(folder: Path) -> TaskSet:
    rows: Rows = [
        {
            "question": f"How long is side {number}?",
            "options": ["1", "2", "3", "4", "5"] if answer in "ABCDE" else [],
            "decoded_image": _picture(number),
            "answer": answer,
        }
        for number, answer in enumerate(["3", "B", "7", "E", "12"])
    ]
    answers = [
        Answered(r"So it is \boxed{3}", True),
        Answered(r"\boxed{B}", True),
        Answered(r"\boxed{8}", False),
        Answered("The answer is A.", False),
        Answered("The final answer is 12", True),
    ]
    return TaskSet("mathvision_test", "mathvision/mathvision_test.yaml", "test", rows, answers)


def _hrbench(folder: Path) -> TaskSet:
    rows: Rows = []
    answers = []
    for index in range(16):
        question, cycle = index % 4, index // 4
        shades = [f"shade {question}{number}" for number in range(4)]
        turned = shades[cycle:] + shades[:cycle]
        right = "ABCD"[turned.index(shades[0])]
        rows.append(
            {
                "index": index,
                "image": base64.b64encode(png(seed=index)).decode(),
                "question": "What colour is the bag?",
                **dict(zip("ABCD", turned, strict=True)),
                "answer": right,
                "category": "single" if question < 2 else "cross",
                "cycle_category": str(cycle),
            }
        )
        hit = (question, cycle) in [(0, 0), (2, 0), (2, 1), (2, 2), (3, 3)]
        answers.append(Answered(right if hit else "ABCD"["ABCD".index(right) - 1], hit))
    return TaskSet("hrbench4k", "hrbench/hrbench4k.yaml", "hrbench_4k", rows, answers)


def _mmvu(folder: Path) -> TaskSet:
    (folder / "mmvu" / "videos" / "Pharmacy").mkdir(parents=True)
    rows: Rows = []
    for number, answer in enumerate("ACE"):
        clip(folder / "mmvu" / "videos" / "Pharmacy" / f"{number}.mp4", 8, 4)
        rows.append(
            {
                "id": f"validation_{number}",
                "video_path": f"videos/Pharmacy/{number}.mp4",
                "question": f"What is done in clip {number}?",
                "question_type": "multiple-choice",
                "choices": {letter: f"step {letter}{number}" for letter in "ABCDE"},
                "answer": answer,
            }
        )
    answers = [Answered("A", True), Answered("B", False), Answered("E", True)]
    return TaskSet("mmvu_val", "mmvu/mmvu_val.yaml", "validation", rows, answers)


def _dynamath(folder: Path) -> TaskSet:
    rows: Rows = [
        {
            "id": str(number // 2),
            "question_id": str(number),
            "question": f"How long is side {number}?",
            "decoded_image": _picture(number),
            "ground_truth": str(number + 3),
        }
        for number in range(6)
    ]
    hits = [True, True, False, True, False, False]
    answers = [
        Answered(rf"\boxed{{{number + 3 if hit else 99}}}", hit) for number, hit in enumerate(hits)
    ]
    source = "dynamath/reasoning/dynamath.yaml"
    return TaskSet("dynamath_reasoning", source, "test", rows, answers)


_SETS: tuple[Callable[[Path], TaskSet], ...] = (
    *(_mmmu, _mmmu_pro, _videommmu, _mlvu),
    *(_mathvision, _hrbench, _mmvu, _dynamath),
)
