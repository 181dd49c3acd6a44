"""The demonstration, as its command runs it in both harnesses, judged by the harnesses' files."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
from scipy.stats import binomtest

from replay_adapters import demo
from replay_adapters.runs.run import Item, RunLog
from replay_adapters.vlmevalkit.demo import demo_documents, demo_task
from replay_core import UsageError

N = 4
OPTIONS = {
    "none": ("none", "optimised"),
    "replay": ("replay", "optimised"),
    "random": ("replay", "random"),
}


@pytest.fixture(scope="module", params=["lmms-eval", "vlmevalkit"])
def shown(request, tmp_path_factory):
    """The harness, what the command printed, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "replay_adapters.cli", "demo", "--harness", request.param]
    ended = subprocess.run(
        [*command, "--limit", str(N), "--batch-size", "2", "--output", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    assert "| 100%" in ended.stderr
    return request.param, ended.stdout, folder


def columns_of(text: str) -> dict[str, dict[str, str]]:
    """Return pair → label → cell."""
    (head,) = re.findall(r"^ {20,}demo.*$", text, re.MULTILINE)
    starts = [match.start() for match in re.finditer(r"demo\w*", head)]
    table = text.partition(head)[2].partition("Files")[0]
    rows = [line for line in table.split("\n") if line.strip()]
    return {
        pair: {row[: starts[0]].strip(): row[start:end].strip() for row in rows}
        for pair, start, end in zip(head.split(), starts, [*starts[1:], None], strict=True)
    }


def harness_files(harness: str, folder: Path, pair: str, arm: str) -> tuple[dict, dict, dict]:
    """Return an arm's settings, item → score, and item → record, read without our reader."""
    if harness == "lmms-eval":
        (results,) = (folder / pair / arm).rglob("*_results.json")
        (samples,) = (folder / pair / arm).rglob("*_samples_replay_demo.jsonl")
        lines = [json.loads(line) for line in samples.read_text().strip().split("\n")]
        settings = json.loads(results.read_text())["replay"]
        scores = {line["doc_id"]: line["accuracy"] for line in lines}
        return settings, scores, {line["doc_id"]: line["replay"][0] for line in lines}
    (journal,) = (folder / pair).glob(f"{pair}-{arm}-*/replay/replay_demo.jsonl")
    lines = [json.loads(line) for line in journal.read_text().strip().split("\n")]
    settings = json.loads(journal.with_name("replay_demo.totals.json").read_text())
    documents, score = demo_documents(), demo_task().score
    scores = {
        n: score(line["predictions"][0], documents[n]["answer"]) for n, line in enumerate(lines)
    }
    return settings, scores, {line["index"]: line["replay"][0] for line in lines}


def test_the_table_is_what_the_harnesses_files_say(shown):
    harness, told, folder = shown
    columns = columns_of(told)
    assert list(columns) == ["demo_narrow", "demo"]
    for pair, cells in columns.items():
        read = {arm: harness_files(harness, folder, pair, arm) for arm in OPTIONS}
        assert cells["items (n)"] == str(N)
        _, none, _ = read["none"]
        for arm, name in (("none", "none"), ("replay", "replay"), ("random", "random x")):
            _, scores, records = read[arm]
            assert len(scores) == len(records) == N
            assert cells[f"accuracy, {name}"] == f"{fmean(scores.values()):.3f}"
            if arm == "none":
                continue
            fixed = sum(scores[n] > none[n] for n in none)
            broken = sum(scores[n] < none[n] for n in none)
            p = binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1
            assert cells[f"{name}: fixed / broken"] == f"{fixed} / {broken}"
            assert cells[f"{name}: exact McNemar p"] == f"{p:.3g}"
            applied = [each for each in records.values() if each["outcome"] == "applied"]
            before, after = (
                f"{fmean(each[f'loss_{when}'] for each in applied):.3g}"
                for when in ("before", "after")
            )
            assert cells[f"{name}: masked KL (nats)"] == f"{before} → {after}"
            counts = Counter(each["outcome"] for each in records.values())
            assert cells[f"{name}: outcomes"] == ", ".join(
                f"{outcome} {count}" for outcome, count in sorted(counts.items())
            )
        seconds = [
            fmean(sum(each["seconds"].values()) for each in read[arm][2].values())
            for arm in OPTIONS
        ]
        shown_seconds = cells["seconds: none / replay / random x"].split(" / ")
        assert list(map(float, shown_seconds)) == pytest.approx(seconds, abs=6e-4)


def test_arms_of_one_process_keep_their_records_and_settings_apart(shown):
    harness, _, folder = shown
    for pair in demo.PAIRS:
        for arm, (method, x) in OPTIONS.items():
            settings, _, records = harness_files(harness, folder, pair, arm)
            assert settings["pair"] == pair
            assert (settings["config"]["method"], settings["config"]["x"]) == (method, x)
            assert {record["method"] for record in records.values()} == {method}
            assert {record["pair"] for record in records.values()} == {pair}
            assert settings["totals"]["n"] == N
    after = [
        harness_files(harness, folder, "demo_narrow", arm)[2][0]["loss_after"]
        for arm in ("replay", "random")
    ]
    assert after[0] < after[1]


def test_every_file_that_is_named_was_written_and_the_commands_are_told(shown):
    harness, told, folder = shown
    paths = [Path(path) for path in told.partition("Files")[2].split()]
    assert len(set(paths)) == len(paths) >= 13
    assert all(path.stat().st_size for path in paths)
    assert (folder / "replay.png").stat().st_size > 10_000
    program = {"lmms-eval": "lmms_eval", "vlmevalkit": "vlmeval_replay"}[harness]
    commands = re.findall(rf"^\$ .*{program} --config (\S+)", told, re.MULTILINE)
    assert [Path(path).parent.name for path in commands] == ["demo_narrow", "demo"]
    assert all(Path(path).is_file() for path in commands)


def planted(arm: str, scores: list[float], losses: list[float]) -> RunLog:
    records = [{"outcome": "applied", "loss_before": 1.0, "loss_after": loss} for loss in losses]
    items = {n: Item(score, records=[records[n]]) for n, score in enumerate(scores)}
    totals = {
        "outcomes": {"applied": len(scores)},
        "loss_before": 1.0,
        "loss_after": fmean(losses),
        "seconds_per_sample": {"base": None, "loop": 0.25, "decode": 0.5},
    }
    return RunLog("lmms-eval", "t", "m", Path(arm), items, {}, settings={"totals": totals})


def test_planted_runs_stand_in_their_columns_and_panels():
    """Two pairs whose numbers are all different: 6 items, of which 3 and 2 change."""
    narrow = demo.Evaluated(
        "demo_narrow",
        {
            "none": planted("none", [0, 0, 0, 1, 1, 0], [9] * 6),
            "replay": planted("replay", [1, 1, 0, 0, 1, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
            "random": planted("random", [1, 0, 0, 1, 0, 0], [3] * 6),
        },
    )
    same = demo.Evaluated("demo", dict.fromkeys(demo.ARMS, planted("same", [1] * 6, [0.5] * 6)))
    columns = columns_of(demo.report("lmms-eval", [narrow, same], Path("replay.png")))
    cells = columns["demo_narrow"]
    assert cells["accuracy, none"] == "0.333"
    assert cells["accuracy, replay"] == "0.500"
    assert cells["accuracy, random x"] == "0.333"
    assert cells["replay: fixed / broken"] == "2 / 1"
    assert cells["random x: fixed / broken"] == "1 / 1"
    assert cells["replay: masked KL (nats)"] == "1 → 0.35"
    assert cells["random x: masked KL (nats)"] == "1 → 3"
    assert cells["seconds: none / replay / random x"] == "0.750 / 0.750 / 0.750"
    assert columns["demo"]["replay: fixed / broken"] == "0 / 0"
    panel = narrow.panel()
    assert panel.losses == [(1.0, loss) for loss in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    assert (panel.comparisons["replay"].fixed, panel.comparisons["random x"].broken) == (2, 1)


def process(tmp_path: Path, name: str, code: str) -> demo.Process:
    log = tmp_path / f"{name}.log"
    command = [sys.executable, "-c", code]
    return demo.Process(name, command, log, dict(os.environ), "", "Answering", lambda arm: None)


def test_a_failure_is_one_sentence_with_the_log_and_ends_the_others(tmp_path):
    slow = process(tmp_path, "slow", "import time; time.sleep(60)")
    bad = process(tmp_path, "bad", "print('why', flush=True); raise SystemExit(1)")
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"evaluation of bad failed; its log is .*bad\.log"):
        demo.run_all([slow, bad])
    assert time.monotonic() - began < 30
    assert bad.log.read_text() == "why\n"


def test_progress_is_read_from_the_harnesses_bars(tmp_path):
    one = process(tmp_path, "one", "")
    bar = "Answering: {0:.0%}|##| {0:.0f}/4 [00:01<00:02]\r"
    for counts, done in (([], 0), ([0, 2], 0.5), ([0, 4, 4], 1), ([0, 4, 4, 0, 1], 1.25)):
        one.log.write_text("noise 3/3 [\n" + "".join(bar.format(count) for count in counts))
        assert demo.arms_done(one) == done


def test_a_run_without_a_steered_sample_is_told_too():
    none = planted("none", [1, 0], [1, 1])
    totals = {**none.settings["totals"], "loss_before": None, "loss_after": None}
    off = RunLog("lmms-eval", "t", "m", Path("f"), none.items, {}, settings={"totals": totals})
    told = demo.report(
        "lmms-eval",
        [demo.Evaluated(pair, dict.fromkeys(demo.ARMS, off)) for pair in demo.PAIRS],
        Path("p"),
    )
    assert columns_of(told)["demo"]["replay: masked KL (nats)"] == "applied to no sample"
