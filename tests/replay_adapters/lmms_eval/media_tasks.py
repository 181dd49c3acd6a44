"""Tasks made for a test: a folder with a YAML file and documents that name what is to be read."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from datasets import Dataset, Features, Image, List, Value

TASKS = Path(__file__).parent / "tasks"


def make(
    folder: Path, name: str, reader: str, documents: Sequence[dict], kind: str = "json"
) -> str:
    """Write a task whose ``doc_to_visual`` is ``files.<reader>``; return its name."""
    folder.mkdir(exist_ok=True)
    for module in ("files.py", "pictures.py"):
        shutil.copy(TASKS / module, folder / module)
    data = folder / f"{name}.{kind}"
    if kind == "json":
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    else:
        features = {key: Value("string") for key in ("question", "answer")}
        features |= (
            {"picture": Image()} if "picture" in documents[0] else {"pictures": List(Image())}
        )
        Dataset.from_list(list(documents), Features(features)).to_parquet(data)
    task = {
        "task": name,
        "dataset_path": kind,
        "dataset_kwargs": {"data_files": {"test": data.name}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 6, "temperature": 0, "until": []},
        "metric_list": [{"metric": "even", "aggregation": "mean", "higher_is_better": True}],
    }
    text = yaml.safe_dump(task, sort_keys=False)
    text += f"doc_to_visual: !function files.{reader}\n"
    text += "process_results: !function pictures.process_results\n"
    (folder / f"{name}.yaml").write_text(text)
    return name


def document(number: int, **more: object) -> dict:
    """Return a document with a question of its own."""
    words = ["What moves?", "How many are there in all?", "Is it red, or is it not red?"]
    return {"question": f"{words[number % 3]} ({number})", "answer": "no", **more}
