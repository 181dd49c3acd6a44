"""Every document's score in lmms-eval's tasks of the paper, against a real run and a person."""

import json
import shutil
import sys

import pytest

from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.reader import read_runs
from replay_adapters.runs.tables import told
from replay_core import UsageError
from tests.support.lmms_eval_sets import write_sets

MLVU_TYPES = 7


@pytest.fixture(scope="module")
def run(lmms_eval_command, tiny_pairs, tmp_path_factory):
    """One run of all sets through lmms-eval, answers scripted; the folder and the sets."""
    data = tmp_path_factory.mktemp("sets")
    sets = write_sets(data)
    script = {one.task: [answer.text for answer in one.answers] for one in sets}
    (data / "script.json").write_text(json.dumps(script))
    pair = tiny_pairs["qwen2_5_vl"]
    given = f"pretrained={pair.policy},replay_base={pair.base},dtype=float32,replay_method=none"
    given += ",min_pixels=3136,max_pixels=12544,max_num_frames=4"
    command = lmms_eval_command(
        *("qwen2_vl_replay", given, ",".join(script)),
        *("--batch_size", "4", "--gen_kwargs", "max_new_tokens=2"),
        module="tests.support.lmms_eval_main",
    )
    # MMVU and HR-Bench want a judge to be named; none is asked about answers that are letters.
    environment = {"SETS": str(data), "HF_HOME": str(data), "OPENAI_API_KEY": "asked-for-nothing"}
    patch = pytest.MonkeyPatch()
    for name, value in {**environment, "PYTHONPATH": ":".join(sys.path)}.items():
        patch.setenv(name, value)
    ended = command.run()
    patch.undo()
    assert ended.code == 0, ended.output
    return ended, {one.task: one for one in sets}


def own(ended, task, metric):
    """Return the harness's own number for a task's metric."""
    return ended.results["results"][task][f"{metric},none"]


@pytest.mark.parametrize(
    ("task", "metric", "scale"),
    [
        ("mmmu_val", "mmmu_acc", 1),
        ("mmmu_pro_standard", "mmmu_acc", 1),
        ("mathvision_test", "mathvision_standard_eval", 100),
        ("hrbench4k", "average", 1),
        ("hrbench4k", "cross", 1),
        ("mmvu_val", "accuracy", 100),
        ("dynamath_reasoning", "dynamath_average", 1),
    ],
)
def test_scores_are_a_persons_and_their_mean_is_the_harnesses_number(run, task, metric, scale):
    ended, sets = run
    (log,) = read_runs(ended.folder, [task], metric)
    rows = list(zip(sets[task].rows, sets[task].right, strict=True))
    right = {n: float(hit) for n, (row, hit) in enumerate(rows) if row.get("category") != "single"}
    if metric != "cross":
        right = {number: float(hit) for number, (_, hit) in enumerate(rows)}
    assert log.scores == right
    assert 0 < sum(right.values()) < len(right)
    mean = scale * sum(right.values()) / len(right)
    assert mean == pytest.approx(own(ended, task, metric), abs=6e-5 * scale)
    assert log.own_number is None


def test_mlvus_number_is_the_mean_over_types_of_question_and_is_told_apart(run):
    ended, sets = run
    (log,) = read_runs(ended.folder, ["mlvu_dev"])
    right = sets["mlvu_dev"].right
    assert log.scores == {number: float(hit) for number, hit in enumerate(right)}
    kinds: dict[str, list[float]] = {}
    for row, value in zip(sets["mlvu_dev"].rows, log.scores.values(), strict=True):
        kinds.setdefault(row["task_type"], []).append(value)
    macro = sum(sum(values) / len(values) for values in kinds.values()) / MLVU_TYPES
    assert own(ended, "mlvu_dev", "mlvu_percetion_score") == pytest.approx(100 * macro)
    assert log.own_number == log.reported


def test_an_open_answer_that_the_harness_leaves_out_is_wrong_and_counted(run):
    ended, sets = run
    (log,) = read_runs(ended.folder, ["video_mmmu_adaptation"])
    right = sets["video_mmmu_adaptation"].right
    assert log.scores == {number: float(hit) for number, hit in enumerate(right)}
    assert log.unscored == 1
    # The harness's own number is of the five others.
    assert own(ended, "video_mmmu_adaptation", "mmmu_acc") == pytest.approx(sum(right) / 5)
    (found,) = compare_runs(ended.folder, ended.folder, tasks=["video_mmmu_adaptation"])
    assert "1 → 1, taken as wrong" in told(found)


def test_every_task_is_compared_by_what_the_papers_number_is_of(run):
    ended, sets = run
    found = {one.a.task: one for one in compare_runs(ended.folder, ended.folder)}
    assert found.keys() == sets.keys()
    metrics = {task: one.a.metric for task, one in found.items()}
    assert metrics["hrbench4k"] == "cross"
    clusters = {task: (one.cluster, one.report.clusters) for task, one in found.items()}
    assert clusters.pop("hrbench4k") == ("question", 2)
    assert clusters.pop("dynamath_reasoning") == ("variant_id", 3)
    assert set(clusters.values()) == {(None, None)}


def test_a_run_of_another_scorer_is_refused(run, tmp_path):
    ended, _ = run
    folder = shutil.copytree(ended.folder, tmp_path / "run")
    (path,) = folder.rglob("*_samples_mmmu_val.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[0]["mmmu_acc"]["parsed_pred"] = ["C"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UsageError, match=r"comes to 0.33333 .* but the run reports 0.5"):
        read_runs(folder, ["mmmu_val"])
