"""Runs of both harnesses read back, compared as scipy and statsmodels do, and refused."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from replay_adapters.studies.compare import compare_runs, row_of, told
from replay_adapters.studies.runs import read_runs
from replay_core import UsageError


def log(
    folder: Path,
    scores: list[float],
    *,
    task: str = "pictures",
    method: str = "none",
    pair: str = "demo",
    repeats: int = 1,
    **changed: Any,
) -> Path:
    """Write a run as lmms-eval does; ``changed`` replaces what a run is compared by."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "pixels": "12544",
        "tokens": 16,
        "suffix": None,
        "input": "Q",
        "scorer": "f",
        **changed,
    }
    config = {
        "metric_list": [{"metric": "accuracy"}],
        "generation_kwargs": {"max_new_tokens": given["tokens"], "temperature": 0},
        "process_results": f"<function {given['scorer']} at 0x7f00{len(method)}>",
        "repeats": 1,
    }
    replay = {
        "pair": pair,
        "config": {"method": method},
        "protocol_settings": {"user_suffix": given["suffix"], "generation": {}},
        "harness_arguments": {"max_pixels": given["pixels"], "batch_size": "8"},
        "dtype": "float32",
    }
    run = {"model_backend": "x.Qwen25VLReplay (chat)", "model_args": f"replay_method={method}"}
    results = {"configs": {task: config}, "config": run, "replay": replay}
    (folder / f"20260101_000000_{task}_results.json").write_text(json.dumps(results))
    rows = []
    for number, score in enumerate(scores):
        record = {"new_tokens": 5 + number % 3, "truncated": number % 10 == 0}
        question = f"{given['input']}{number // repeats}\nA. {number}"
        row = {"doc_id": number, "target": str(number % 4), "input": question, "accuracy": score}
        rows.append(json.dumps({**row, "resps": "x", "replay": [record]}))
    name = f"20260101_000000_{task}_samples_{task}.jsonl"
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder


def scores(n: int, gain: int, seed: int = 0) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2, n)
    b = a.copy()
    b[rng.choice(n, n // 10, replace=False)] ^= 1
    b[np.flatnonzero(b == 0)[:gain]] = 1
    return a.astype(float).tolist(), b.astype(float).tolist()


def by_hand(a: list[float], b: list[float]) -> tuple[int, int, float, float]:
    """Return fixed, broken, and McNemar's p by scipy and by statsmodels."""
    table = np.zeros((2, 2), dtype=int)
    for x, y in zip(a, b, strict=True):
        table[1 - int(x), 1 - int(y)] += 1
    broken, fixed = int(table[0, 1]), int(table[1, 0])
    return (
        fixed,
        broken,
        binomtest(fixed, fixed + broken).pvalue,
        mcnemar(table, exact=True).pvalue,
    )


def check(row: dict[str, Any], a: list[float], b: list[float]) -> None:
    fixed, broken, scipys, statsmodels = by_hand(a, b)
    assert (row["fixed"], row["broken"], row["n"]) == (fixed, broken, len(a))
    assert row["mcnemar_p"] == pytest.approx(scipys)
    assert row["mcnemar_p"] == pytest.approx(statsmodels)
    assert row["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert row["low"] <= row["difference"] <= row["high"]


def test_two_runs_of_lmms_eval_are_compared_as_by_hand(tmp_path):
    a, b = scores(200, 24)
    (found,) = compare_runs(log(tmp_path / "a", a), log(tmp_path / "b", b, method="replay"))
    row = row_of(found)
    check(row, a, b)
    assert row["low"] > 0
    assert row["truncated_a"] == pytest.approx(0.1)
    assert "exact McNemar p" in told(found)
    assert found.published is None


def test_questions_asked_four_times_are_clusters_and_the_paper_is_quoted(tmp_path):
    a, b = scores(200, 12)
    task, pair = "hrbench4k", "deepeyes_7b"
    where = {"task": task, "pair": pair, "repeats": 4}
    (found,) = compare_runs(
        log(tmp_path / "a", a, **where),
        log(tmp_path / "b", b, **where),
        cluster="question",
    )
    check(row_of(found), a, b)
    assert found.report.clusters == 50
    assert found.report.p_value == found.report.permutation_p
    assert found.published == ("HR-Bench 4K FCP half", 53.7, 56.3)
    assert "53.7 → 56.3" in told(found)


def test_holm_is_over_all_tasks(tmp_path):
    for task, gain in (("one", 12), ("two", 0)):
        a, b = scores(200, gain)
        log(tmp_path / "a", a, task=task)
        log(tmp_path / "b", b, task=task)
    found = {each.a.task: each for each in compare_runs(tmp_path / "a", tmp_path / "b")}
    p = found["one"].report.p_value
    assert found["one"].holm_p == pytest.approx(2 * p)
    (alone,) = compare_runs(tmp_path / "a", tmp_path / "b", tasks=["one"])
    assert alone.holm_p == pytest.approx(p)


@pytest.mark.parametrize(
    ("changed", "told_of"),
    [
        ({"input": "Other"}, "their prompt differs at document 0"),
        ({"suffix": "Think."}, "their prompt differs .user_suffix is None .* Think"),
        ({"pixels": "50176"}, "their pixels differs .max_pixels is 12544 in one and 50176"),
        ({"tokens": 2048}, "their decoding differs .generation .*2048"),
        ({"scorer": "other_judge"}, "their judge differs .scorer is .*other_judge"),
    ],
)
def test_runs_that_differ_are_refused_with_the_difference(tmp_path, changed, told_of):
    a, b = scores(20, 1)
    with pytest.raises(UsageError, match=told_of):
        compare_runs(log(tmp_path / "a", a), log(tmp_path / "b", b, **changed))


def test_other_documents_tasks_and_folders_are_refused(tmp_path):
    a, b = scores(20, 1)
    log(tmp_path / "a", a)
    with pytest.raises(UsageError, match=r"documents differ .1 only in the first"):
        compare_runs(tmp_path / "a", log(tmp_path / "b", b[:-1]))
    with pytest.raises(UsageError, match=r"different tasks: .* has pictures; .* has films"):
        compare_runs(tmp_path / "a", log(tmp_path / "c", b, task="films"))
    with pytest.raises(UsageError, match="holds neither samples of lmms-eval"):
        compare_runs(tmp_path / "a", _empty(tmp_path / "d"))
    with pytest.raises(UsageError, match="does not exist"):
        read_runs(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no run of films .found: pictures"):
        read_runs(tmp_path / "a", ["films"])
    with pytest.raises(UsageError, match=r"metric 'bleu' is no number .* names accuracy"):
        read_runs(tmp_path / "a", metric="bleu")
    with pytest.raises(UsageError, match="--cluster colour is no field"):
        compare_runs(tmp_path / "a", tmp_path / "a", cluster="colour")


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def vlmevalkit(tmp_path_factory):
    """Two runs scored by VLMEvalKit itself, in its own files; a is right on every second item."""
    root = tmp_path_factory.mktemp("vlmevalkit")
    patch = pytest.MonkeyPatch()
    patch.setenv("LMUData", str(root))
    patch.setenv("PRED_FORMAT", "tsv")
    import pandas as pd

    picture = io.BytesIO()
    Image.new("RGB", (28, 28)).save(picture, "PNG")
    n = 40
    table = {
        "index": range(n),
        "image": [base64.b64encode(picture.getvalue()).decode()] * n,
        "question": [f"question {i // 4}?" for i in range(n)],
        "A": ["yes"] * n,
        "B": ["no"] * n,
        "answer": ["A", "B"] * (n // 2),
    }
    pd.DataFrame(table).to_csv(root / "ReplayMCQ.tsv", sep="\t", index=False)
    from vlmeval.dataset import build_dataset
    from vlmeval.smp import dump

    dataset = build_dataset("ReplayMCQ")
    answers = {"a": ["A"] * n, "b": ["A"] * 10 + ["B", "B"] * 2 + ["A", "B"] * 13}
    for name, predictions in answers.items():
        folder = root / name / "M" / "T20260101_Gabc"
        folder.mkdir(parents=True)
        data = dataset.data.drop(columns="image").assign(prediction=predictions)
        dump(data, str(folder / "M_ReplayMCQ.tsv"))
        dataset.evaluate(str(folder / "M_ReplayMCQ.tsv"), model="exact_matching", nproc=1)
    patch.undo()
    right = ["A", "B"] * (n // 2)
    return root, {
        name: [float(p == r) for p, r in zip(predictions, right, strict=True)]
        for name, predictions in answers.items()
    }


def test_two_runs_of_vlmevalkit_are_compared_from_its_own_files(vlmevalkit):
    root, hits = vlmevalkit
    (found,) = compare_runs(root / "a", root / "b")
    assert (found.a.harness, found.a.task, found.a.metric) == ("VLMEvalKit", "ReplayMCQ", "hit")
    check(row_of(found), hits["a"], hits["b"])
    (clustered,) = compare_runs(root / "a", root / "b", cluster="question")
    assert clustered.report.clusters == 10


def test_vlmevalkits_settings_and_judge_are_compared_too(vlmevalkit, tmp_path):
    import shutil

    root, _ = vlmevalkit
    for name, pixels in (("a", 3136), ("b", 50176)):
        shutil.copytree(root / name, tmp_path / name)
        journal = tmp_path / name / "M" / "T20260101_Gabc" / "replay"
        journal.mkdir()
        settings = {"pair": "demo", "harness_arguments": {"min_pixels": pixels}}
        (journal / "settings.json").write_text(json.dumps(settings))
        line = {"index": 0, "replay": [{"new_tokens": 7, "truncated": False}]}
        (journal / "ReplayMCQ.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UsageError, match=r"pixels differs .min_pixels is 3136 in one and 50176"):
        compare_runs(tmp_path / "a", tmp_path / "b")
    (run,) = read_runs(tmp_path / "a")
    assert run.items["0"].tokens == 7
    other = next((tmp_path / "b").rglob("*_exact_matching_result.tsv"))
    other.rename(other.with_name(other.name.replace("exact_matching", "gpt-4o")))
    next((tmp_path / "b").rglob("settings.json")).unlink()
    next((tmp_path / "a").rglob("settings.json")).unlink()
    with pytest.raises(UsageError, match=r"judge differs .judge is exact_matching .* gpt-4o"):
        compare_runs(tmp_path / "a", tmp_path / "b")
