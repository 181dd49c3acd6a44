"""The demonstration in VLMEvalKit: the demo items as one of its sets, replay off and on."""

import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from replay_adapters.demo import ARMS, TASK, report
from replay_adapters.settings.resources import resource
from replay_adapters.vlmevalkit.journal import read_lines
from replay_core import UsageError
from replay_core.studies.figures import run_picture
from replay_core.studies.stats.paired import compare


def run_demo(output: Path, limit: int | None) -> str:
    """Run both arms through VLMEvalKit's run script and return the report.

    Writes below ``output``: the set as the harness wants it (``LMUData``), the harness's folder of
    each arm, a log, and ``replay.png``. ``limit`` is the number of items, None for all.

    Raises:
        UsageError: the evaluation failed; the sentence names its log.
    """
    documents = demo_documents()[:limit]
    write_set(output / "LMUData" / f"{TASK}.tsv", documents)
    _answer(output)
    folders = {arm: _newest(output, arm) for arm in ARMS}
    lines = {arm: read_lines(folder / f"{TASK}.jsonl") for arm, folder in folders.items()}
    scores = {arm: _scores(lines[arm], documents) for arm in ARMS}
    comparison = compare(scores["none"], scores["replay"])
    records = (record for line in lines["replay"] for record in line["replay"])
    losses = [(r["loss_before"], r["loss_after"]) for r in records if r["outcome"] == "applied"]
    picture = output / "replay.png"
    run_picture(picture, losses, comparison, ("none", "replay"))
    totals = {arm: json.loads((folders[arm] / f"{TASK}.totals.json").read_text()) for arm in ARMS}
    files = [path for arm in ARMS for path in sorted(folders[arm].parent.rglob(f"*{TASK}.*"))]
    summed = {arm: content["totals"] for arm, content in totals.items()}
    return report(f"{TASK}, in VLMEvalKit", summed, comparison, [*files, picture])


@cache
def demo_task() -> ModuleType:
    """Return the module of the task ``replay_demo``, which lies outside any package."""
    path = resource("tasks") / TASK / f"{TASK}.py"
    spec = importlib.util.spec_from_file_location(TASK, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def demo_documents() -> list[dict[str, Any]]:
    """Return the test items, the same that lmms-eval is given."""
    split = json.loads((resource("tasks") / TASK / "splits" / "test.json").read_text())
    return list(demo_task().split_docs(**split))


def write_set(path: Path, documents: list[dict[str, Any]]) -> None:
    """Write documents as a set of VLMEvalKit: a TSV with PNG images in base64.

    It lies in the folder that the environment variable LMUData names, under the set's name.
    """
    import pandas as pd

    rows = []
    for index, document in enumerate(documents):
        picture = io.BytesIO()
        document["image"].save(picture, format="PNG")
        rows.append(
            {
                "index": index,
                "image": base64.b64encode(picture.getvalue()).decode(),
                "question": document["question"],
                "answer": document["answer"],
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)


def _answer(output: Path) -> None:
    """Answer the set with both arms; progress bars go to the terminal, the rest to a log."""
    log = output / "vlmevalkit.log"
    command = [sys.executable, "-m", "replay_adapters.vlmevalkit"]
    command += ["--model", *(f"demo-{arm}" for arm in ARMS)]
    # VLMEvalKit has no scorer for sets of one's own with free answers.
    command += ["--data", TASK, "--mode", "infer", "--work-dir", str(output)]
    print(f"\n$ LMUData={output / 'LMUData'} vlmeval_replay {' '.join(command[3:])}", flush=True)
    quiet = {"PYTHONWARNINGS": "ignore", "LOGURU_LEVEL": "ERROR", "TQDM_MININTERVAL": "1"}
    environment = {"OMP_NUM_THREADS": "1", "PRED_FORMAT": "tsv", **quiet, **os.environ}
    environment["LMUData"] = str((output / "LMUData").resolve())
    with log.open("w", encoding="utf-8") as out:
        ended = subprocess.run(command, stdout=out, env=environment, check=False)
    if ended.returncode:
        raise UsageError(f"the evaluation in VLMEvalKit failed; its log is {log}")


def _newest(output: Path, arm: str) -> Path:
    """Return the folder of an arm's records; older settings have folders of their own."""
    found = output.glob(f"demo-{arm}-*/replay/{TASK}.jsonl")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def _scores(lines: list[dict[str, Any]], documents: list[dict[str, Any]]) -> dict[int, float]:
    """Return item → 0 or 1, by the task's own scorer."""
    score = demo_task().score
    return {
        line["index"]: score(line["predictions"][0], documents[line["index"]]["answer"])
        for line in lines
    }
