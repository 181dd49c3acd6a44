"""The paper's benchmarks as tasks that read rows of ours, offline.

A task here includes the harness's own file, whose prompt, scorer and metrics stay; it has another
name, ``lab_`` and the harness's, since the harness lets nothing stand over a name of its own.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from datasets import Dataset, Image

from replay_adapters.settings.resources import resource
from tests.support import media
from tests.support.lab import rows
from tests.support.lab.answers import LETTERS, MIXED, NUMBERS, Written
from tests.support.lab.rows import Row


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


_MMMU_PICTURES = tuple(f"image_{number}" for number in range(1, 8))
_VIDEO_MMMU = "video_mmmu/Science/{id}.mp4"
# What stands in a hub's cache, since the set's code asks the hub's client for the folder.
_HUB = Path("datasets--TencentARC--Video-Holmes")
_VIDEO_HOLMES = f"{_HUB}/snapshots/0/videos_cropped/{{video ID}}.mp4"


def _clip(where: str) -> Callable[[Row], str]:
    return lambda row: where.format(**row)


LABS = {
    "mathverse_testmini_vision_only": Lab(
        "mathverse/mathverse_testmini_vision_only.yaml",
        "vision_only",
        rows.mathverse,
        MIXED,
        ["image"],
    ),
    "mathvision_test": Lab(
        "mathvision/mathvision_test.yaml", "test", rows.mathvision, MIXED, ["decoded_image"]
    ),
    "mathvision_reason_test": Lab(
        "mathvision/mathvision_reason_test.yaml", "test", rows.mathvision, MIXED, ["decoded_image"]
    ),
    "mathvision_reason_test_reasoning": Lab(
        *("mathvision/reasoning/mathvision_reason_test.yaml", "test", rows.mathvision, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_cot": Lab(
        *("mathvista/mathvista_testmini_cot.yaml", "testmini", rows.mathvista, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_format": Lab(
        *("mathvista/mathvista_testmini_format.yaml", "testmini", rows.mathvista, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_solution": Lab(
        *("mathvista/mathvista_testmini_solution.yaml", "testmini", rows.mathvista, MIXED),
        ["decoded_image"],
    ),
    "mathvista_testmini_cot_reasoning": Lab(
        *("mathvista/reasoning/mathvista_testmini_cot.yaml", "testmini", rows.mathvista, MIXED),
        ["decoded_image"],
    ),
    "dynamath_reasoning": Lab(
        "dynamath/reasoning/dynamath.yaml", "test", rows.dynamath, MIXED, ["decoded_image"]
    ),
    "wemath_testmini_reasoning": Lab(
        *("wemath/reasoning/wemath_testmini_thinking.yaml", "testmini", rows.wemath, LETTERS),
        ["image_path"],
    ),
    "logicvista_reasoning": Lab(
        "logicvista/reasoning/logicvista_thinking.yaml", "test", rows.logicvista, LETTERS, ["image"]
    ),
    "mmmu_val": Lab("mmmu/mmmu_val.yaml", "validation", rows.mmmu, MIXED, _MMMU_PICTURES),
    "mmmu_val_reasoning": Lab(
        "mmmu/reasoning/mmmu_val_reasoning.yaml", "validation", rows.mmmu, MIXED, _MMMU_PICTURES
    ),
    "mmmu_pro_standard": Lab(
        "mmmu_pro/mmmu_pro_standard.yaml", "test", rows.mmmu_pro, LETTERS, _MMMU_PICTURES
    ),
    "mmmu_pro_standard_cot_reasoning": Lab(
        *("mmmu_pro/reasoning/mmmu_pro_standard_cot.yaml", "test", rows.mmmu_pro, LETTERS),
        _MMMU_PICTURES,
    ),
    "mmmu_pro_vision": Lab(
        "mmmu_pro/mmmu_pro_vision.yaml", "test", rows.mmmu_pro_vision, LETTERS, ["image"]
    ),
    "hrbench4k": Lab("hrbench/hrbench4k.yaml", "hrbench_4k", rows.hrbench),
    "hrbench8k": Lab("hrbench/hrbench8k.yaml", "hrbench_8k", rows.hrbench),
    "vstar_bench": Lab("vstar_bench/vstar_bench.yaml", "test", rows.vstar, LETTERS, ["image"]),
    "vstar_bench_reasoning": Lab(
        "vstar_bench/reasoning/vstar_bench_reasoning.yaml", "test", rows.vstar, LETTERS, ["image"]
    ),
    "video_mmmu_perception": Lab(
        "videommmu/perception.yaml", "test", rows.videommmu, LETTERS, clips=_clip(_VIDEO_MMMU)
    ),
    "video_mmmu_comprehension": Lab(
        "videommmu/comprehension.yaml", "test", rows.videommmu, LETTERS, clips=_clip(_VIDEO_MMMU)
    ),
    "video_mmmu_adaptation": Lab(
        "videommmu/adaptation.yaml", "test", rows.videommmu, MIXED, clips=_clip(_VIDEO_MMMU)
    ),
    "video_holmes": Lab(
        "video_holmes/video_holmes.yaml", "test", rows.video_holmes, clips=_clip(_VIDEO_HOLMES)
    ),
    "video_holmes_reasoning": Lab(
        *("video_holmes/video_holmes_reasoning.yaml", "test", rows.video_holmes),
        clips=_clip(_VIDEO_HOLMES),
    ),
    "mmvu_val": Lab(
        "mmvu/mmvu_val.yaml", "validation", rows.mmvu, LETTERS, clips=_clip("mmvu/{video_path}")
    ),
    "mlvu_dev": Lab("mlvu/mlvu_dev.yaml", "test", rows.mlvu, clips=_clip("mlvu/{video_name}")),
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

LABS |= {
    f"video_r1_{name}": replace(LABS[own], file=f"video_r1/video_r1_{name}.yaml", ours=True)
    for name, own in {
        "videommmu_perception": "video_mmmu_perception",
        "videommmu_comprehension": "video_mmmu_comprehension",
        "videommmu_adaptation": "video_mmmu_adaptation",
        "mlvu_mc": "mlvu_dev",
        "mmvu_mc": "mmvu_val_mc",
        "videoholmes": "video_holmes",
    }.items()
}


def write(folder: Path, names: Sequence[str] = tuple(LABS)) -> Path:
    """Write the tasks' files, rows and pictures into ``folder``; return it."""
    import lmms_eval.tasks

    harness, tasks = Path(lmms_eval.tasks.__file__).parent, resource("tasks")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lab = LABS[name]
        made = [lab.row(number, one) for number, one in enumerate((*lab.written, *lab.more))]
        table = Dataset.from_list(made)
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
    clip = media.clip(home / "clip.mp4", 8, 4, (84, 56))
    for name in names:
        lab = LABS[name]
        for number, one in enumerate(lab.written if lab.clips else ()):
            assert lab.clips is not None
            path = home / lab.clips(lab.row(number, one))
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, path)
    return home
