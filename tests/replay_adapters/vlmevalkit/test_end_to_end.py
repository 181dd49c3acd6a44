"""The adapter through the real harness, judged by the files that it leaves."""

import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from replay_core.jsonl import read_lines
from tests.replay_adapters.vlmevalkit.conftest import (
    CLIPS,
    PICTURES,
    REPLAY,
    SMALL,
    answers,
    write_run_file,
)

SETS = ("pictures", "Holmes_4frame")
# Frames by rate, after a set with a number of frames.
RATE = {"Holmes_4fps": {"class": "Video_Holmes", "dataset": "Video_Holmes", "nframe": 0, "fps": 4}}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def undisturbed(vlmeval, tiny_model, tiny_pairs, work):
    """Three models on both sets in one process: the harness's own class, none, and replay."""
    stock = {"class": "Qwen2VLChat", "model_path": str(tiny_pairs["qwen2_5_vl"].policy), **SMALL}
    models = {
        "stock": stock,
        "tiny-none": tiny_model(replay_method="none"),
        "tiny-replay": tiny_model(**REPLAY),
    }
    data = {**PICTURES, **CLIPS, **RATE}
    file = write_run_file(work / "run.json", models, data)
    ended = vlmeval(
        *("--config", str(file), "--work-dir", str(work), "--judge", "exact_matching"),
        STOCK_ON_CPU="1",
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
    return work


@pytest.mark.parametrize("dataset", SETS)
def test_without_replay_answers_are_the_stock_classes(undisturbed, dataset):
    stock = answers(undisturbed, "stock", dataset).predictions
    ours = answers(undisturbed, "tiny-none", dataset)
    assert ours.predictions == stock
    assert len(set(stock.values())) > 1
    assert ours.totals["totals"]["outcomes"] == {"off": len(stock)}


def test_every_picture_has_its_record_by_index(undisturbed, sets):
    ours = answers(undisturbed, "tiny-replay", "pictures")
    assert [line["index"] for line in ours.lines] == sets.indices
    for number, line in enumerate(ours.lines):
        assert line["predictions"] == [ours.predictions[line["index"]]]
        (record,) = line["replay"]
        assert record["outcome"] == "applied"
        assert record["loss_after"] < record["loss_before"]
        # Grids of 5x3, 2x4 and 6x2, in turn: a record beside another sample would show.
        assert record["visual_tokens"] == (15, 8, 12)[number % 3]
        assert line["scores"] in ([0.0], [1.0])
    assert len({str(line["replay"][0]["seed"]) for line in ours.lines}) == len(sets.indices)


def test_every_clip_has_its_record_by_index(undisturbed):
    ours = answers(undisturbed, "tiny-replay", "Holmes_4frame")
    assert [line["index"] for line in ours.lines] == list(range(6))
    for index, line in enumerate(ours.lines):
        assert line["predictions"] == [ours.predictions[index]]
        assert line["replay"][0]["outcome"] == "applied"
        # Four frames are two grids: of 2x3 or, for even clips, of 4x2 tokens.
        assert line["replay"][0]["visual_tokens"] == (12 if index % 2 else 16)


def test_a_set_by_rate_is_not_sampled_as_the_set_before_it(undisturbed):
    """Upstream leaves the model without a rate, so that the next set gets the default of 2."""
    ours = answers(undisturbed, "tiny-replay", "Holmes_4fps")
    counts = [line["replay"][0]["visual_tokens"] for line in ours.lines]
    # Eight frames of two seconds are four grids.
    assert counts == [24 if index % 2 else 32 for index in range(6)]


def test_totals_stand_beside_the_records_with_the_settings(undisturbed):
    ours = answers(undisturbed, "tiny-replay", "pictures")
    assert ours.totals["totals"]["outcomes"] == {"applied": 12}
    assert ours.totals["config"]["threshold"] == 0.7
    assert ours.folder.name == f"tiny-replay-{ours.totals['fingerprint'][:8]}"


def test_two_killed_processes_go_on_behind_the_last_finished_sample(
    undisturbed, tiny_model, sets, tmp_path
):
    """Killed at a random sample; its number is in the test's output."""
    file = write_run_file(
        tmp_path / "run.json", {"tiny-replay": tiny_model(**REPLAY)}, {**PICTURES, **CLIPS}
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "tests.support.vlmeval_main", "--config", str(file)]
    command += ["--work-dir", str(tmp_path), "--judge", "exact_matching"]
    at = random.randrange(1, 12)
    print(f"killed at sample {at}")
    with (tmp_path / "killed.log").open("w") as log:
        run = subprocess.Popen(command, env=sets.environment(), stdout=log, stderr=log)
        deadline = time.monotonic() + 600  # on a busy machine, a start takes minutes
        while len(_begun(tmp_path)) < at:
            assert run.poll() is None, (tmp_path / "killed.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in [*psutil.Process(run.pid).children(recursive=True), run]:
            process.kill()
        run.wait()
    finished = _begun(tmp_path)
    again = subprocess.run(
        command, env=sets.environment(), text=True, capture_output=True, check=False
    )
    output = again.stdout + again.stderr
    assert again.returncode == 0, output[-3000:]
    resumed = [int(n) for n in re.findall(r"(\d+) samples were answered by an earlier", output)]
    assert set(resumed) == {len(finished)}  # in both processes: nothing finished is repeated
    for dataset in SETS:
        ours = answers(tmp_path, "tiny-replay", dataset)
        whole = answers(undisturbed, "tiny-replay", dataset)
        assert ours.predictions == whole.predictions
        for line, expected in zip(ours.lines, whole.lines, strict=True):
            assert line["index"] == expected["index"]
            found, wanted = (x["replay"][0] for x in (line, expected))
            assert found["loss_after"] == pytest.approx(wanted["loss_after"], rel=1e-5)
            assert found["seed"] == wanted["seed"]


def _begun(work):
    """Return the pictures' lines that unfinished processes have written."""
    parts = work.glob("tiny-replay-*/replay/pictures.*.part")
    return [line for part in parts for line in read_lines(part)]


@pytest.fixture(scope="module")
def again(undisturbed, vlmeval, tiny_model, sets, tmp_path_factory):
    """Four models in the work folder of the first run, on its pictures and on a set that fails."""
    work = tmp_path_factory.mktemp("again") / "work"
    shutil.copytree(undisturbed, work)
    sampled = {"samples": 3, "temperature": 1.0}
    models = {
        "tiny-none": tiny_model(replay_method="none"),
        "tiny-replay": tiny_model(**{**REPLAY, "replay_threshold": 0.5}),
        "tiny-sampled": tiny_model(**REPLAY, **sampled),
        "tiny-resampled": tiny_model(**REPLAY, **sampled),
    }
    # What is in a set is found out when it is read.
    Path(sets.environment()["LMUData"], "failing.tsv").write_bytes(b"index\timage\n1\t\xff\n")
    data = {**PICTURES, "failing": {"class": "ImageMCQDataset", "dataset": "failing"}}
    file = write_run_file(work / "again.json", models, data)
    ended = vlmeval(
        *("--config", str(file), "--work-dir", str(work), "--judge", "exact_matching"),
        module="replay_adapters.vlmevalkit",
    )
    return work, ended


def test_another_threshold_in_the_same_work_folder_is_computed_anew(again, undisturbed):
    work, ended = again
    before = answers(undisturbed, "tiny-replay", "pictures")
    folders = {path.name for path in work.glob("tiny-replay-*") if path.is_dir()}
    (new,) = folders - {before.folder.name}
    assert f"Infer {new}/pictures" in ended.stdout
    records = [line["replay"][0] for line in read_lines(work / new / "replay" / "pictures.jsonl")]
    shares = [record["masked_fraction"]["0"] for record in records]
    earlier = [line["replay"][0]["masked_fraction"]["0"] for line in before.lines]
    assert sum(shares) < sum(earlier)
    # The earlier settings' predictions stand where they were.
    kept = read_lines(work / before.folder.name / "replay" / "pictures.jsonl")
    assert kept == before.lines


def test_the_same_settings_in_the_same_work_folder_are_not_computed_again(again, undisturbed):
    work, ended = again
    assert "Infer tiny-none" not in ended.stdout
    kept, before = (answers(folder, "tiny-none", "pictures") for folder in (work, undisturbed))
    assert kept.predictions == before.predictions
    assert kept.lines == before.lines


def test_samples_of_one_item_differ_share_their_x_and_come_again(again):
    work, _ = again
    sampled, resampled = (
        answers(work, f"tiny-{name}", "pictures").lines for name in ("sampled", "resampled")
    )
    for line, repeated in zip(sampled, resampled, strict=True):
        assert len(set(line["predictions"])) == 3
        assert line["predictions"] == repeated["predictions"]
        assert len({record["seed"] for record in line["replay"]}) == 3
        assert len({record["loss_after"] for record in line["replay"]}) == 1
        first, *others = (record["seconds"]["loop"] for record in line["replay"])
        assert first > 0
        assert others == [0, 0]  # x was not optimised again
        assert len(line["scores"]) == 3
    assert {score for line in sampled for score in line["scores"]} <= {0.0, 1.0}


def test_a_set_that_fails_is_named_and_the_exit_code_is_1(again):
    _, ended = again
    assert ended.returncode == 1
    told = ended.stdout.strip().splitlines()[-1]
    assert "vlmeval_replay: failed: " in told
    assert "on failing: 'utf-8' codec can't decode byte 0xff" in told


def test_a_checkouts_run_script_and_a_shipped_name(vlmeval, tmp_path):
    """A checkout has run.py beside the package; here both are those that are installed."""
    import importlib.util

    (package,) = importlib.util.find_spec("vlmeval").submodule_search_locations
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "vlmeval").symlink_to(package)
    shutil.copy(Path(package) / "run.py", checkout)
    from replay_adapters.vlmevalkit.demo import demo_documents, write_set

    write_set(tmp_path / "data" / "replay_demo.tsv", demo_documents()[:3])
    ended = vlmeval(
        *("--vlmevalkit", str(checkout), "--model", "demo-replay", "--data", "replay_demo"),
        *("--mode", "infer", "--work-dir", str(tmp_path), "--replay", "steps=3,layers=[0,2]"),
        module="replay_adapters.vlmevalkit",
        LMUData=str(tmp_path / "data"),
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert f"{checkout}" in ended.stdout  # the script's logger names the file it is from
    records = [line["replay"][0] for line in answers(tmp_path, "demo-replay", "replay_demo").lines]
    assert {tuple(record["masked_fraction"]) for record in records} <= {("0", "2"), ()}
    assert len(records) == 3
