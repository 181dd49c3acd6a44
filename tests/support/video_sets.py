"""A few questions in the schemas of the video sets, with real clips, for either harness."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from datasets import Dataset
from PIL import Image

from replay_adapters.settings.resources import resource
from tests.support import media

# name → (frames, frames a second, size)
CLIPS = {
    "long": (40, 10, (112, 84)),
    "seven": (7, 5, (84, 112)),
    "three": (3, 4, (112, 84)),
    "one": (1, 5, (112, 84)),
    "slow": (20, 2, (150, 93)),
}
OPTIONS = ["a bird", "a fish", "a cat", "a dog"]


def make_clips(folder: Path) -> dict[str, Path]:
    """Write the readable clips, a file with sound only and one that is cut, by name."""
    folder.mkdir(parents=True)
    made = {
        name: media.clip(folder / f"{name}.mp4", frames, rate, size)
        for name, (frames, rate, size) in CLIPS.items()
    }
    broken = folder / "broken"
    broken.mkdir()
    damaged = media.broken_clips(broken)
    return {**made, "sound": damaged["sound"], "cut": damaged["cut"]}


def _put(clips: Mapping[str, Path], name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(clips[name], path)


def write_lmms_eval(folder: Path, home: Path, clips: Mapping[str, Path]) -> list[str]:
    """Write the tasks' sets in ``folder`` and their clips below HF_HOME; return the tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    parts = {
        "perception": [("dev_Art_1", "long", "multiple-choice", "B")],
        "comprehension": [("dev_Music_2", "seven", "multiple-choice", "C")],
        "adaptation": [
            ("dev_Math_1", "slow", "multiple-choice", "A"),
            ("dev_Math_2", "three", "open", "3.14"),
            ("dev_Math_3", "one", "open", "a prism"),
        ],
    }
    for part, rows in parts.items():
        documents = []
        for identity, clip, kind, answer in rows:
            place = "Science" if "Math" in identity else "Art"
            _put(clips, clip, home / "video_mmmu" / place / f"{identity}.mp4")
            documents.append(
                {
                    "id": identity,
                    "question": f"What is in {identity}?",
                    "options": OPTIONS if kind == "multiple-choice" else [],
                    "answer": answer,
                    "question_type": kind,
                }
            )
        names.append(_task(folder, f"video_r1_videommmu_{part}", documents, "test"))
    snapshot = home / "datasets--TencentARC--Video-Holmes"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("c0ffee")
    for name in ("long", "slow"):
        _put(clips, name, snapshot / "snapshots" / "c0ffee" / "videos_cropped" / f"{name}.mp4")
    documents = [
        {
            "video ID": clip,
            "Question ID": number,
            "Question Type": "SR",
            "Question": f"Who is it in {clip}?",
            "Options": dict(zip("ABCDEF", [*OPTIONS, "a cow", "nobody"], strict=True)),
            "Answer": "F",
            "Explanation": "",
        }
        for number, clip in enumerate(["long", "slow", "absent"])
    ]
    names.append(_task(folder, "video_r1_videoholmes", documents, "test"))
    documents = []
    for number, (clip, kind) in enumerate(
        [("seven", "multiple-choice"), ("long", "open-ended"), ("three", "multiple-choice")]
    ):
        _put(clips, clip, home / "mmvu" / "videos" / "Biology" / f"{number}.mp4")
        documents.append(
            {
                "id": f"validation_{number}",
                "question": f"Which process is in clip {number}?",
                "choices": dict(zip("ABCDE", [*OPTIONS, "none"], strict=True)),
                "answer": "E",
                "question_type": kind,
                "video_path": f"videos/Biology/{number}.mp4",
            }
        )
    names.append(_task(folder, "video_r1_mmvu_mc", documents, "validation"))
    documents = []
    letters = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", OPTIONS, strict=True))
    for clip in ("slow", "sound", "cut", "absent", "seven"):
        if clip in clips:
            _put(clips, clip, home / "mlvu" / "1_plotQA" / f"{clip}.mp4")
        documents.append(
            {
                "video_name": f"1_plotQA/{clip}.mp4",
                "duration": 4.0,
                "question": f"What happens in {clip}?\n{letters}",
                "candidates": OPTIONS,
                "answer": "D",
                "task_type": "plotQA",
                "question_id": f"q_{clip}",
            }
        )
    names.append(_task(folder, "video_r1_mlvu_mc", documents, "test"))
    (folder / "all.yaml").write_text(
        f"include: {resource('tasks') / 'video_r1' / 'video_r1_videommmu.yaml'}\n"
        f"group: here_video_r1_videommmu\ntask: {names[:3]}\n"
    )
    return ["here_video_r1_videommmu", *names[3:]]


def _task(folder: Path, task: str, documents: Sequence[Mapping[str, Any]], split: str) -> str:
    shipped, name = resource("tasks") / "video_r1" / f"{task}.yaml", f"here_{task}"
    Dataset.from_list([dict(one) for one in documents]).to_parquet(folder / f"{task}.parquet")
    (folder / f"{name}.yaml").write_text(
        f"include: {shipped}\ntask: {name}\ndataset_path: parquet\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files:\n    {split}: {folder / task}.parquet\n"
    )
    return name


def write_vlmevalkit(root: Path, clips: Mapping[str, Path]) -> dict[str, Path]:
    """Write three sets as VLMEvalKit keeps them once fetched; return their folders by class."""
    folders = {name: root / name for name in ("Video_Holmes", "VideoMMMU", "MLVU_MCQ")}
    rows: list[dict[str, Any]] = []
    for number, clip in enumerate(["long", "slow"]):
        _put(clips, clip, folders["Video_Holmes"] / "video" / f"{clip}.mp4")
        rows.append(
            {
                "index": number,
                "video": clip,
                "video_path": f"./video/{clip}.mp4",
                "candidates": [f"{a}. {b}" for a, b in zip("ABCD", OPTIONS, strict=True)],
                "question": f"Who is it in {clip}?",
                "answer": "B",
                "question_id": number,
                "question_type": "SR",
                "explanation": "",
            }
        )
    _table(folders, "Video_Holmes", rows)
    rows = []
    picture = folders["VideoMMMU"] / "images" / "quiz.png"
    picture.parent.mkdir(parents=True)
    Image.fromarray(np.full((56, 84, 3), 200, dtype=np.uint8)).save(picture)
    for number, (part, clip, kind, answer) in enumerate(
        [
            ("Perception", "seven", "multiple-choice", "C"),
            ("Adaptation", "slow", "multiple-choice", "C"),
            ("Adaptation", "three", "open", "42"),
        ]
    ):
        _put(clips, clip, folders["VideoMMMU"] / "videos" / f"{clip}.mp4")
        rows.append(
            {
                "index": number,
                "id": f"dev_Art_{number}",
                "category": part,
                "question": f"What is number {number}?",
                "options": json.dumps(OPTIONS if kind != "open" else []),
                "answer": answer,
                "question_type": kind,
                "video": f"videos/{clip}.mp4",
                "image": "images/quiz.png" if part == "Adaptation" else None,
            }
        )
    _table(folders, "VideoMMMU", rows)
    rows = []
    for number, clip in enumerate(["slow", "one", "sound"]):
        _put(clips, clip, folders["MLVU_MCQ"] / "MLVU" / "video" / "1_plotQA" / f"{clip}.mp4")
        rows.append(
            {
                "task_type": "plotQA",
                "prefix": "./MLVU/video/1_plotQA",
                "duration": 4.0,
                "video": f"{clip}.mp4",
                "question": f"What happens in {clip}?",
                "answer": OPTIONS[3],
                "candidates": OPTIONS,
                "index": number,
            }
        )
    _table(folders, "MLVU_MCQ", rows)
    return folders


def _table(folders: Mapping[str, Path], name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(folders[name] / f"{name}.tsv", sep="\t", index=False)


def pair_file(path: Path, policy: Path, base: Path) -> Path:
    """Write video_r1_7b's pair file for tiny checkpoints, which see few pixels."""
    shipped = yaml.safe_load((resource("configs") / "pairs" / "video_r1_7b.yaml").read_text())
    for published in ("inject", "sources", "unknown", "processor", "rl_start", "presets"):
        shipped.pop(published, None)
    shipped |= {"policy": str(policy), "base": str(base), "dtype": "float32"}
    shipped["replay"] = {"layers": 3, "threshold": 0.7, "step_size": 3, "steps": 3}
    shipped["protocol"] |= {"min_pixels": 3136, "max_pixels": 12544}
    shipped["protocol"]["generation"] |= {"max_new_tokens": 160}
    path.write_text(yaml.safe_dump(shipped))
    return path
