"""Every item's score in VLMEvalKit's sets of the paper, against its own scorers and a person."""

import json
import shutil

import pandas as pd
import pytest

from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.reader import read_runs
from replay_adapters.vlmevalkit.journal import Journal
from replay_adapters.vlmevalkit.scoring import score_every_sample
from replay_core import UsageError
from tests.support.vlmeval_scored import SETS, Scored

BY_NAME = {one.task: one for one in SETS}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """All sets' predictions and journals in one model's folder, scored by the harness; set → its
    own number."""
    root = tmp_path_factory.mktemp("scored")
    folder = root / "M" / "T20260101_Gabc"
    folder.mkdir(parents=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("PRED_FORMAT", "tsv")
    patch.setenv("LMUData", str(root / "LMUData"))
    (root / "LMUData").mkdir()
    numbers = {one.task: score(one, folder) for one in SETS}
    patch.undo()
    (root / "M" / "replay" / "settings.json").write_text(json.dumps({"config": {"method": "none"}}))
    return root, numbers


def score(one: Scored, folder) -> float:
    """Write predictions, what a judge made of them, and a journal; return the scorer's number."""
    from vlmeval.smp import dump

    file = folder / f"M_{one.task}.tsv"
    table = pd.DataFrame(one.rows)
    dump(table, str(file))
    for ending, more in one.judged.items():
        dump(table.assign(**more), str(folder / f"M_{one.task}{ending}.tsv"))
    journal = Journal(folder.parent, one.task)
    for row in one.rows:
        journal.add({"index": row["index"], "predictions": [row["prediction"]], "replay": [{}]})
    dataset = one.dataset(table)
    score_every_sample(dataset, journal)
    journal.finish(row["index"] for row in one.rows)
    return one.number(dataset.evaluate(str(file), model=one.judge, nproc=1))


@pytest.mark.parametrize("task", BY_NAME)
def test_scores_are_a_persons_and_their_mean_is_the_harnesses_number(scored, task):
    root, numbers = scored
    (log,) = read_runs(root, [task])
    one = BY_NAME[task]
    assert list(log.scores.values()) == [float(hit) for hit in one.right]
    assert 0 < sum(one.right) < len(one.right)
    counted = len(one.right) - one.left_out
    assert numbers[task] == pytest.approx(sum(one.right) / counted, abs=1e-4)
    assert log.unscored == one.left_out
    assert (log.task, log.path.name) == (task, f"M_{task}.tsv")
    assert log.facts["judge"]["judge"] == one.told_judge


def test_all_sets_are_compared_in_one_command(scored):
    root, _ = scored
    found = {one.a.task: one for one in compare_runs(root, root)}
    assert found.keys() == BY_NAME.keys()
    assert (found["DynaMath"].cluster, found["DynaMath"].report.clusters) == ("qid", 3)
    assert found["MathVerse_MINI_Vision_Only"].cluster is None  # each problem stands once


def test_a_stock_run_of_a_set_without_scores_is_refused(scored, tmp_path):
    root = shutil.copytree(scored[0], tmp_path / "stock")
    shutil.rmtree(root / "M" / "replay")
    with pytest.raises(UsageError, match=r"hit or score or correct .* MathVista_MINI's scores"):
        read_runs(root, ["MathVista_MINI"])
    assert read_runs(root, ["LogicVista"])


def test_what_is_said_of_a_whole_set_is_no_table_of_items(scored, tmp_path):
    root = shutil.copytree(scored[0], tmp_path / "run")
    (path,) = root.rglob("M_MLVU_MCQ.tsv")
    for ending in ("acc", "rating"):
        path.with_name(f"M_MLVU_MCQ_{ending}.json").write_text('{"Overall": 0.5}')
    (log,) = read_runs(root, ["MLVU_MCQ"])
    assert len(log.items) == 6


def test_a_folder_called_replay_further_up_does_not_hide_a_run(scored, tmp_path):
    root = shutil.copytree(scored[0], tmp_path / "replay")
    (log,) = read_runs(root, ["MLVU_MCQ"])
    assert log.items
