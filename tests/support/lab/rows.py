"""Rows of the paper's benchmarks in their own schemas, and tasks that read them offline.

A task here includes the harness's own file, whose prompt, scorer and metrics stay; it has another
name, ``lab_`` and the harness's, since the harness lets nothing stand over a name of its own.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, Image

from replay_adapters.settings.resources import resource
from tests.support import media
from tests.support.lab.answers import LETTERS, MIXED, NUMBERS, Written

COLOURS = ("red", "blue", "green", "grey", "black", "white", "brown", "pink", "gold", "teal")
QUESTION = "Which colour is the car"
Row = dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """A task of the harness, the rows that it is given, and the answers that it is to score."""

    file: str
    """The task's YAML file, below ``lmms_eval/tasks`` or, where ``ours``, below ``tasks``."""
    split: str
    row: Callable[[int, Written], Row]
    written: Sequence[Written] = LETTERS
    pictures: Sequence[str] = ()
    """Columns that hold a picture; none where they are text, or where the rows are about clips."""
    ours: bool = False
    more: Sequence[Written] = ()
    """Rows behind the others, which the task leaves out."""
    clips: Callable[[Row], str] | None = None
    """Where a row's clip lies, below ``HF_HOME``."""


def _options(count: int) -> list[str]:
    return list(COLOURS[:count])


def _listed(count: int = 4) -> str:
    return " ".join(f"({chr(65 + n)}) {colour}" for n, colour in enumerate(_options(count)))


def _question(number: int, one: Written) -> str:
    return f"{QUESTION} of line {number}?" if one.truth == "B" else f"How much is line {number}?"


def _mathverse(number: int, one: Written) -> Row:
    asked = _question(number, one)
    if one.truth == "B":
        asked += f"\nChoices:\n{_listed()}"
    return {
        "sample_index": str(number),
        "problem_index": str(number),
        "problem_version": "Vision Only",
        "question": "",
        "image": media.png(seed=number),
        "answer": one.truth,
        "question_type": "multi-choice" if one.truth == "B" else "free-form",
        "metadata": {"split": "testmini", "source": "s", "subject": "g", "subfield": "a"},
        "query_wo": f"Please directly answer the question.\n{asked}",
        "query_cot": f"Please first conduct reasoning.\n{asked}",
        "question_for_eval": asked,
    }


def _mathvision(number: int, one: Written) -> Row:
    return {
        "id": str(number),
        "question": f"{_question(number, one)}\n<image1>",
        "options": _options(5) if one.truth == "B" else [],
        "image": f"images/{number}.jpg",
        "decoded_image": media.png(seed=number),
        "answer": one.truth,
        "solution": None,
        "level": 3,
        "subject": "arithmetic",
    }


def _mathvista(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    whole = one.truth.isdigit()
    kind = "text" if letter else "integer" if whole else "float"
    facts = ("language", "source", "category", "task", "context", "grade", "split", "img_type")
    return {
        "pid": str(number),
        "question": _question(number, one),
        "image": f"images/{number}.jpg",
        "decoded_image": media.png(seed=number),
        "choices": _options(4) if letter else None,
        "unit": None,
        "precision": None if letter or whole else 1.0,
        "answer": "blue" if letter else one.truth,
        "question_type": "multi_choice" if letter else "free_form",
        "answer_type": kind,
        "metadata": {**dict.fromkeys(facts, "x"), "split": "testmini", "skills": ["arithmetic"]},
        "query": _question(number, one),
    }


def _dynamath(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    choices = f" Choices: {_listed()}" if letter else ""
    return {
        "id": str(number // 2),
        "question_id": str(number),
        "question": _question(number, one) + choices,
        "image": f"images/{number}.png",
        "decoded_image": media.png(seed=number),
        "ground_truth": one.truth,
        "answer_type": "multiple choice" if letter else "float",
        "subject": "arithmetic",
        "knowledge_level": "high school",
    }


def _wemath(number: int, one: Written) -> Row:
    step = number % 3
    return {
        "ID": number // 3,
        "split": "testmini",
        "knowledge concept": "Colours",
        "question": _question(number, one),
        "option": "; ".join(f"{chr(65 + n)}. {each}" for n, each in enumerate(_options(4))),
        "answer": one.truth,
        "image_path": media.png(seed=number),
        "key": ("2steps_1", "2steps_2", "2steps_multi")[step],
        "question number": number,
        "knowledge concept description": "x",
    }


def _logicvista(number: int, one: Written) -> Row:
    return {
        "index": number,
        "question": f"{_question(number, one)} {_listed()}",
        "answer": one.truth,
        "image": media.png(seed=number),
        "skill": "inductive",
    }


def _pictures(picture: bytes) -> Row:
    return {"image_1": picture, **{f"image_{other}": None for other in range(2, 8)}}


def _mmmu(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    return {
        "id": f"validation_Biology_{number}",
        "question": f"<image 1> {_question(number, one)}",
        "options": str(_options(4)) if letter else "[]",
        "explanation": "",
        **_pictures(media.png(seed=number)),
        "img_type": "['Photographs']",
        "answer": one.truth,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice" if letter else "open",
        "subfield": "Ecology",
    }


def _mmmu_pro(number: int, one: Written) -> Row:
    return {
        "id": f"test_Biology_{number}",
        "question": f"<image 1> {_question(number, one)}",
        "options": str(_options(10)),
        "explanation": "",
        **_pictures(media.png(seed=number)),
        "img_type": "['Photographs']",
        "answer": one.truth,
        "topic_difficulty": "Easy",
        "subject": "Biology",
    }


def _mmmu_pro_vision(number: int, one: Written) -> Row:
    return {
        "id": f"test_Biology_{number}",
        "image": media.png(seed=number),
        "options": str(_options(10)),
        "answer": one.truth,
        "subject": "Biology",
    }


def _hrbench(number: int, one: Written) -> Row:
    return {
        "index": number,
        "question": _question(number, one),
        "image": base64.b64encode(media.png(seed=number)).decode(),
        "answer": one.truth,
        **dict(zip("ABCD", _options(4), strict=True)),
        "category": ("single", "cross")[number % 2],
        "cycle_category": str(number % 4),
    }


def _vstar(number: int, one: Written) -> Row:
    return {
        "question_id": str(number),
        "text": f"{_question(number, one)}\n"
        + "\n".join(f"({chr(65 + n)}) {each}" for n, each in enumerate(_options(4))),
        "label": one.truth,
        "category": ("direct_attributes", "relative_position")[number % 2],
        "image": media.png(seed=number),
    }


def _videommmu(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    return {
        "id": f"validation_Biology_{number}",
        "question": _question(number, one),
        "options": _options(10) if letter else [],
        "answer": one.truth,
        "question_type": "multiple-choice" if letter else "open",
        "link_selected": "x",
    }


def _video_holmes(number: int, one: Written) -> Row:
    return {
        "video ID": f"clip{number}",
        "Question ID": number,
        "Question Type": ("SR", "IMC", "TCI", "TA", "MHR", "PAR", "CTI")[number % 7],
        "Question": _question(number, one),
        "Options": dict(zip("ABCDEF", _options(6), strict=True)),
        "Answer": one.truth,
        "Explanation": "x",
    }


def _mmvu(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    choices = dict(zip("ABCDE", _options(5) if letter else [""] * 5, strict=True))
    return {
        "id": f"validation_{number}",
        "video_path": f"Biology/{number}.mp4",
        "question_type": "multiple-choice" if letter else "open-ended",
        "question": _question(number, one),
        "choices": choices,
        "answer": one.truth,
        "metadata": {"subject": "Biology"},
    }


def _mlvu(number: int, one: Written) -> Row:
    kinds = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
    return {
        "video_name": f"{number}.mp4",
        "duration": 8.0,
        "question": f"{_question(number, one)}\n"
        + "\n".join(f"({chr(65 + n)}) {each}" for n, each in enumerate(_options(4))),
        "candidates": _options(4),
        "answer": one.truth,
        "task_type": kinds[number % 7],
    }


_MMMU_PICTURES = tuple(f"image_{number}" for number in range(1, 8))
_VIDEO_MMMU = "video_mmmu/Science/{id}.mp4"
# What stands in a hub's cache, since the set's code asks the hub's client for the folder.
_HUB = Path("datasets--TencentARC--Video-Holmes")
_VIDEO_HOLMES = f"{_HUB}/snapshots/0/videos_cropped/{{video ID}}.mp4"


def _clip(where: str) -> Callable[[Row], str]:
    return lambda row: where.format(**row)


LABS = {
    "mathverse_testmini_vision_only": Lab(
        "mathverse/mathverse_testmini_vision_only.yaml", "vision_only", _mathverse, MIXED, ["image"]
    ),
    "mathvision_test": Lab(
        "mathvision/mathvision_test.yaml", "test", _mathvision, MIXED, ["decoded_image"]
    ),
    "mathvision_reason_test": Lab(
        "mathvision/mathvision_reason_test.yaml", "test", _mathvision, MIXED, ["decoded_image"]
    ),
    "mathvision_reason_test_reasoning": Lab(
        *("mathvision/reasoning/mathvision_reason_test.yaml", "test", _mathvision, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_cot": Lab(
        *("mathvista/mathvista_testmini_cot.yaml", "testmini", _mathvista, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_format": Lab(
        *("mathvista/mathvista_testmini_format.yaml", "testmini", _mathvista, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_solution": Lab(
        *("mathvista/mathvista_testmini_solution.yaml", "testmini", _mathvista, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_cot_reasoning": Lab(
        *("mathvista/reasoning/mathvista_testmini_cot.yaml", "testmini", _mathvista, MIXED),
        ["decoded_image"],
    ),
    "dynamath_reasoning": Lab(
        "dynamath/reasoning/dynamath.yaml", "test", _dynamath, MIXED, ["decoded_image"]
    ),
    "wemath_testmini_reasoning": Lab(
        *("wemath/reasoning/wemath_testmini_thinking.yaml", "testmini", _wemath, LETTERS),
        ["image_path"],
    ),
    "logicvista_reasoning": Lab(
        "logicvista/reasoning/logicvista_thinking.yaml", "test", _logicvista, LETTERS, ["image"]
    ),
    "mmmu_val": Lab("mmmu/mmmu_val.yaml", "validation", _mmmu, MIXED, _MMMU_PICTURES),
    "mmmu_val_reasoning": Lab(
        "mmmu/reasoning/mmmu_val_reasoning.yaml", "validation", _mmmu, MIXED, _MMMU_PICTURES
    ),
    "mmmu_pro_standard": Lab(
        "mmmu_pro/mmmu_pro_standard.yaml", "test", _mmmu_pro, LETTERS, _MMMU_PICTURES
    ),
    "mmmu_pro_standard_cot_reasoning": Lab(
        *("mmmu_pro/reasoning/mmmu_pro_standard_cot.yaml", "test", _mmmu_pro, LETTERS),
        _MMMU_PICTURES,
    ),
    "mmmu_pro_vision": Lab(
        "mmmu_pro/mmmu_pro_vision.yaml", "test", _mmmu_pro_vision, LETTERS, ["image"]
    ),
    "hrbench4k": Lab("hrbench/hrbench4k.yaml", "hrbench_4k", _hrbench),
    "hrbench8k": Lab("hrbench/hrbench8k.yaml", "hrbench_8k", _hrbench),
    "vstar_bench": Lab("vstar_bench/vstar_bench.yaml", "test", _vstar, LETTERS, ["image"]),
    "vstar_bench_reasoning": Lab(
        "vstar_bench/reasoning/vstar_bench_reasoning.yaml", "test", _vstar, LETTERS, ["image"]
    ),
    "video_mmmu_perception": Lab(
        "videommmu/perception.yaml", "test", _videommmu, LETTERS, clips=_clip(_VIDEO_MMMU)
    ),
    "video_mmmu_comprehension": Lab(
        "videommmu/comprehension.yaml", "test", _videommmu, LETTERS, clips=_clip(_VIDEO_MMMU)
    ),
    "video_mmmu_adaptation": Lab(
        "videommmu/adaptation.yaml", "test", _videommmu, MIXED, clips=_clip(_VIDEO_MMMU)
    ),
    "video_holmes": Lab(
        "video_holmes/video_holmes.yaml", "test", _video_holmes, clips=_clip(_VIDEO_HOLMES)
    ),
    "video_holmes_reasoning": Lab(
        *("video_holmes/video_holmes_reasoning.yaml", "test", _video_holmes),
        clips=_clip(_VIDEO_HOLMES),
    ),
    "mmvu_val": Lab(
        "mmvu/mmvu_val.yaml", "validation", _mmvu, LETTERS, clips=_clip("mmvu/{video_path}")
    ),
    "mlvu_dev": Lab("mlvu/mlvu_dev.yaml", "test", _mlvu, clips=_clip("mlvu/{video_name}")),
}

LABS |= {
    f"{name}_long": replace(LABS[name], file=f"long_answers/{name}_long.yaml", ours=True)
    for name in (
        *("mmmu_val", "mmmu_pro_standard", "mmmu_pro_vision", "hrbench4k", "hrbench8k"),
        *("vstar_bench", "video_holmes", "mlvu_dev"),
    )
}
LABS["mathverse_testmini_vision_only_reasoning"] = replace(
    LABS["mathverse_testmini_vision_only"],
    file="vision_only/mathverse_testmini_vision_only_reasoning.yaml",
    ours=True,
)
LABS["mmvu_val_mc"] = replace(
    LABS["mmvu_val"], file="multiple_choice/mmvu_val_mc.yaml", ours=True, more=NUMBERS[:1]
)


def write(folder: Path, names: Sequence[str] = tuple(LABS)) -> Path:
    """Write the tasks' files, rows and pictures into ``folder``; return it."""
    import lmms_eval.tasks

    harness, tasks = Path(lmms_eval.tasks.__file__).parent, resource("tasks")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lab = LABS[name]
        rows = [lab.row(number, one) for number, one in enumerate((*lab.written, *lab.more))]
        table = Dataset.from_list(rows)
        for column in lab.pictures:
            table = table.cast_column(column, Image())
        table.to_parquet(folder / f"{name}.parquet")
        task = {
            "include": str((tasks if lab.ours else harness) / lab.file),
            "task": f"lab_{name}",
            "tag": [],
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {lab.split: f"{name}.parquet"}},
            "test_split": lab.split,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def write_clips(home: Path, names: Sequence[str] = tuple(LABS)) -> Path:
    """Write the clips that the tasks' rows name below ``home``, a ``HF_HOME``; return it."""
    (home / _HUB / "refs").mkdir(parents=True, exist_ok=True)
    (home / _HUB / "refs" / "main").write_text("0")
    for name in names:
        lab = LABS[name]
        for number, one in enumerate(lab.written if lab.clips else ()):
            assert lab.clips is not None
            path = home / lab.clips(lab.row(number, one))
            path.parent.mkdir(parents=True, exist_ok=True)
            media.clip(path, 8, 4, (84, 56))
    return home
