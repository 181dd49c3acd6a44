"""Sets with broken inputs and dropped rows, through the real harness, judged by what it leaves."""

import base64
import os
import subprocess
import sys

import pandas as pd
import pytest

from tests.replay_adapters.vlmevalkit.conftest import (
    CLIPS,
    PICTURES,
    REPLAY,
    Sets,
    answers,
    write_run_file,
)
from tests.support.unreadable import broken_pictures, png, write_broken_clips
from tests.support.vlmeval_sets import OPTIONS, make_clips, make_pictures

ARMS = ("none", "base", "replay", "inject")
FIRST_BROKEN = 500
BROKEN = dict(enumerate(broken_pictures(), FIRST_BROKEN))
TINY = {"class": "CustomMCQDataset", "dataset": "short"}
HOLLOW = {"class": "CustomMCQDataset", "dataset": "hollow"}
NOTHING = {"class": "CustomMCQDataset", "dataset": "nothing"}


def cell(content):
    return base64.b64encode(content).decode()


def question(index, image):
    return {"index": index, "image": image, "question": f"{index}?", **OPTIONS, "answer": "A"}


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Sets:
    """Four whole pictures before the broken ones, two whole clips before the broken ones."""
    root = tmp_path_factory.mktemp("broken")
    data, clips = root / "data", root / "clips"
    indices = make_pictures(data, count=4)
    file = data / "pictures.tsv"
    contents = broken_pictures()
    contents["empty"] = b"\n"  # an empty cell would be no cell
    rows = [question(index, cell(contents[kind])) for index, kind in BROKEN.items()]
    # Two pictures in a row, of which the second is broken.
    rows.append(question(900, str([cell(png(56, 56)), cell(contents["cut"])])))
    pd.concat([pd.read_csv(file, sep="\t"), pd.DataFrame(rows)]).to_csv(file, sep="\t", index=False)
    make_clips(clips, 2)
    table = pd.read_csv(clips / "Video_Holmes.tsv", sep="\t")
    kinds = write_broken_clips(clips / "video")
    template = table.iloc[0].to_dict()
    more = [
        {**template, "index": number, "video": kind, "video_path": f"./video/{kind}.mp4"}
        for number, kind in enumerate(
            kinds, 2
        )  # the set's scorer takes the index for the row's number
    ]
    table = pd.concat([table, pd.DataFrame(more)])
    table.to_csv(clips / "Video_Holmes.tsv", sep="\t", index=False)

    whole = pd.read_csv(file, sep="\t")["image"].iloc[0]
    rows = [question(3, whole), question(8, cell(b"short")), question(5, "3")]
    pd.DataFrame(rows).to_csv(data / "short.tsv", sep="\t", index=False)
    rows = [question(index, whole if index % 3 else None) for index in range(1, 11)]
    pd.DataFrame(rows).to_csv(data / "hollow.tsv", sep="\t", index=False)
    rows = [question(index, cell(b"nothing to see here" * 4)) for index in (1, 2)]
    pd.DataFrame(rows).to_csv(data / "nothing.tsv", sep="\t", index=False)
    return Sets(data, clips, [*indices, *BROKEN, 900])


@pytest.fixture(scope="module")
def run(broken):
    def ran(*words, processes=1):
        command = [sys.executable, "-m"]
        if processes > 1:
            command += ["torch.distributed.run", "--standalone", "--nproc-per-node"]
            command += [str(processes), "-m"]
        return subprocess.run(
            [*command, "tests.support.vlmeval_main", *words, "--judge", "exact_matching"],
            env=broken.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )

    return ran


@pytest.fixture(scope="module")
def whole(run, tiny_model, tmp_path_factory):
    """Every arm on sets with unreadable inputs."""
    work = tmp_path_factory.mktemp("whole")
    injects = {"replay_layers": 3, "replay_threshold": 0.7}
    own = {"replay": REPLAY, "inject": injects}
    models = {f"tiny-{a}": tiny_model(**own.get(a, {}), replay_method=a) for a in ARMS}
    file = write_run_file(work / "run.json", models, {**PICTURES, **CLIPS, "short": TINY})
    return work, run("--config", str(file), "--work-dir", str(work))


def test_unreadable_inputs_do_not_end_a_run_and_the_last_line_names_them(whole, broken):
    _, ended = whole
    assert ended.returncode == 0, ended.stdout[-5000:]
    told = ended.stdout.strip().splitlines()[-1]
    assert told.startswith("vlmeval_replay: tiny-none-")
    total = len(broken.indices)
    first = ", ".join(map(str, list(BROKEN)[:5]))
    counted = f"{total} of {total} rows were answered; {total - 4} unreadable_input: index {first}"
    assert told.count(f"on pictures: {counted} and {total - 9} more") == len(ARMS)
    assert told.count("on short: 3 of 3 rows were answered; 1 unreadable_input: index 8") == 4


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_gives_an_empty_answer_with_its_record(whole, broken, arm):
    work, _ = whole
    ours = answers(work, f"tiny-{arm}", "pictures")
    assert [line["index"] for line in ours.lines] == broken.indices
    steered = {"none": "off", "base": "off", "replay": "applied", "inject": "applied"}[arm]
    for line in ours.lines:
        index, (record,) = line["index"], line["replay"]
        unread = index >= FIRST_BROKEN
        assert record["outcome"] == ("unreadable_input" if unread else steered)
        assert record["method"] == arm
        assert ours.predictions[index] == (" " if unread else line["predictions"][0])
        if unread:
            assert line["predictions"] == [""]
            assert line["scores"] == [0.0]
            assert record["error"].startswith((f"index {index}: ", f"{broken.data}"))
            assert str(index) in record["error"]
        else:
            assert line["predictions"] != [""]
    count = len(BROKEN) + 1
    assert ours.totals["totals"]["outcomes"] == {"unreadable_input": count, steered: 4}
    assert ours.totals["missing"] == 0


@pytest.mark.parametrize("arm", ARMS)
def test_broken_clips_are_named_and_scored_as_wrong(whole, arm):
    work, _ = whole
    ours = answers(work, f"tiny-{arm}", "Holmes_4frame")
    outcomes = [line["replay"][0]["outcome"] for line in ours.lines]
    assert "unreadable_input" not in outcomes[:2]
    assert outcomes[2:] == ["unreadable_input"] * 7
    kinds = ("empty", "garbage", "cut", "damaged", "long_drawn", "sound_only", "many_frames")
    for line, kind in zip(ours.lines[2:], kinds, strict=True):
        assert kind in line["replay"][0]["error"]
        assert line["scores"] == [0.0]


@pytest.fixture(scope="module")
def torn(run, whole, tiny_model):
    """In the same folder: a strict model, one that resumes, and sets that lose rows."""
    work, _ = whole
    models = {
        "tiny-none": tiny_model(replay_method="none"),
        "tiny-strict": tiny_model(replay_method="none", replay_strict=True),
    }
    data = {**PICTURES, "renamed": HOLLOW, "nothing": NOTHING}
    file = write_run_file(work / "torn.json", models, data)
    ended = run("--config", str(file), "--work-dir", str(work), "--mode", "infer")
    return work, ended


def test_strict_raises_and_the_last_line_says_how_far_it_came(torn, broken):
    _, ended = torn
    assert ended.returncode == 1
    told = ended.stdout.strip().splitlines()[-1]
    assert "vlmeval_replay: failed: " in told
    (strict,) = [t for t in told.split(". ") if "tiny-strict" in t and "on pictures" in t]
    assert "index 500: an image: UnidentifiedImageError" in strict
    assert f"4 of {len(broken.indices)} rows were answered, not index 500, 501" in strict


def test_dropped_rows_are_not_answered(torn):
    _, ended = torn
    told = ended.stdout.strip().splitlines()[-1]
    for model in ("none", "strict"):
        (part,) = [t for t in told.split(". ") if f"tiny-{model}" in t and "on renamed" in t]
        assert part.endswith("7 of 10 rows were answered, not index 3, 6, 9")


def test_a_set_of_which_nothing_can_be_read_has_failed(torn):
    _, ended = torn
    told = ended.stdout.strip().splitlines()[-1]
    (none,) = [t for t in told.split(". ") if "tiny-none" in t and "on nothing" in t]
    assert "no row's input can be read" in none


def test_two_processes_and_a_harness_model_by_name(run, tiny_model, tmp_path):
    """The command's own names, with rows that the set drops and one that is unreadable."""
    from replay_adapters.vlmevalkit.demo import demo_documents, write_set

    write_set(tmp_path / "data" / "replay_demo.tsv", demo_documents()[:6])
    path = tmp_path / "data" / "replay_demo.tsv"
    table = pd.read_csv(path, sep="\t")
    table.loc[2, "image"] = None
    table.loc[3, "image"] = cell(b"garbage" * 20)
    table.to_csv(path, sep="\t", index=False)
    lost, unread = table["index"].iloc[2], table["index"].iloc[3]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "replay_adapters.vlmevalkit"),
            *("--model", "demo-none", "demo-base", "--data", "replay_demo", "--mode", "infer"),
            *("--work-dir", str(tmp_path)),
        ],
        env={**os.environ, "LMUData": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1
    (told,) = [x for x in ended.stdout.splitlines() if x.startswith("vlmeval_replay: failed")]
    wanted = f"5 of 6 rows were answered, not index {lost}; 1 unreadable_input: index {unread}"
    assert told.count(wanted) == 2
