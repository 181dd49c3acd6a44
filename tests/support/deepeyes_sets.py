"""A few questions in the schemas of HR-Bench, V* and VisualProbe, and what a policy writes to them.

The pictures are noise with one white square, drawn from a seed: the crop of a square is known.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from replay_adapters.settings.resources import resource

SQUARE = (320, 240, 400, 300)  # left, top, right, bottom in the original
SIZE = (640, 480)
LETTERS = "ABCD"


def picture(seed: int, size: tuple[int, int] = SIZE) -> Pictures.Image:
    """Return dark noise with a white square."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    left, top, right, bottom = SQUARE
    pixels[top:bottom, left:right] = 255
    return Pictures.fromarray(pixels)


def call(box: Any, name: str = "image_zoom_in_tool") -> str:
    """Return a tool call as the model writes it."""
    told = json.dumps({"name": name, "arguments": {"bbox_2d": box}})
    return f"<tool_call>{told}</tool_call>"


def hrbench_rows(questions: list[str]) -> list[dict[str, Any]]:
    """Return four rotations of each question; the right answer is always "red"."""
    rows: list[dict[str, Any]] = []
    for number, question in enumerate(questions):
        saved = io.BytesIO()
        picture(number).save(saved, "PNG")
        image = base64.b64encode(saved.getvalue()).decode()
        colours = ["red", "green", "blue", "grey"]
        for turned in range(4):
            options = colours[turned:] + colours[:turned]
            rows.append(
                {
                    "index": len(rows),
                    "question": question,
                    "answer": LETTERS[options.index("red")],
                    "category": "single" if number % 2 == 0 else "cross",
                    **dict(zip(LETTERS, options, strict=True)),
                    "cycle_category": str(turned),
                    "image": image,
                }
            )
    return rows


def write_hrbench(folder: Path, questions: list[str], task: str = "deepeyes_hrbench4k") -> str:
    """Write a set in HR-Bench's schema and a task for it; return the task's name."""
    lines = "".join(json.dumps(row) + "\n" for row in hrbench_rows(questions))
    (folder / "hrbench.jsonl").write_text(lines)
    return _task(folder, task, "json", "hrbench.jsonl", "hrbench_4k")


def write_vlmevalkit(data: Path, questions: list[str]) -> None:
    """Write HRBench4K and VStarBench as VLMEvalKit keeps them below ``data``."""
    rows = hrbench_rows(questions)
    pd.DataFrame(rows).to_csv(data / "hr_bench_4k.tsv", sep="\t", index=False)
    few = pd.DataFrame(rows[:2]).drop(columns=["cycle_category"])
    few.to_csv(data / "VStarBench.tsv", sep="\t", index=False)


def write_vstar(folder: Path, texts: list[str], labels: list[str]) -> str:
    """Write a set in V*'s schema and a task for it; return the task's name."""
    features = Features(
        {"image": Image()}
        | {name: Value("string") for name in ("text", "category", "label", "question_id")}
    )
    rows = {
        "image": [picture(10 + number) for number in range(len(texts))],
        "text": texts,
        "category": ["direct_attributes"] * len(texts),
        "label": labels,
        "question_id": [str(number) for number in range(len(texts))],
    }
    Dataset.from_dict(rows, features).to_parquet(str(folder / "vstar.parquet"))
    return _task(folder, "deepeyes_vstar", "parquet", "vstar.parquet", "test")


def write_visualprobe(folder: Path, questions: list[str], answers: list[str]) -> str:
    """Write a set in VisualProbe's schema and a task for it; return the task's name.

    The picture of the last question is broken.
    """
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    rows = {
        "image": [
            *(picture(20 + number) for number in range(len(questions) - 1)),
            {"bytes": b"no picture", "path": None},
        ],
        "question": questions,
        "answer": answers,
    }
    Dataset.from_dict(rows, features).to_parquet(str(folder / "probe.parquet"))
    return _task(folder, "deepeyes_visualprobe_hard", "parquet", "probe.parquet", "test")


def _task(folder: Path, task: str, kind: str, file: str, split: str) -> str:
    shipped = resource("tasks") / "deepeyes" / f"{task}.yaml"
    name = f"here_{task}"
    (folder / f"{name}.yaml").write_text(
        f"include: {shipped}\ntask: {name}\ndataset_path: {kind}\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files:\n    {split}: {folder / file}\n"
    )
    return name


def pair_file(path: Path, policy: Path, base: Path, **tools: Any) -> Path:
    """Write deepeyes_7b's pair file for tiny checkpoints, which see few pixels."""
    shipped = yaml.safe_load((resource("configs") / "pairs" / "deepeyes_7b.yaml").read_text())
    for published in ("inject", "sources", "unknown"):
        shipped.pop(published, None)
    shipped |= {"policy": str(policy), "base": str(base), "dtype": "float32"}
    shipped["replay"] = {"layers": 3, "threshold": 0.7, "step_size": 3}
    shipped["protocol"]["max_pixels"] = 50176
    shipped["protocol"]["generation"]["max_new_tokens"] = 160
    shipped["protocol"]["tools"] |= tools
    path.write_text(yaml.safe_dump(shipped))
    return path
