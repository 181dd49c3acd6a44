"""Video-R1 on VLMEvalKit's video sets, in the real harness on rows in the sets' own schemas.

What the policy writes is scripted; prompts, frames, positions, records and scores are real.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from replay_adapters.settings.resources import resource
from replay_adapters.vlmevalkit import fetching
from replay_core import UsageError
from replay_core.jsonl import read_lines
from tests.replay_adapters.vlmevalkit.conftest import answers
from tests.support import video_sets as sets

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
CHOICE, NUMBER = "multiple choice", "numerical"
RUN_FILE = resource("configs") / "vlmevalkit" / "video_16frame.json"
FOUR = "Options:\nA. a bird\nB. a fish\nC. a cat\nD. a dog\n"
LEARN = "You should watch and learn the video content. Then apply what you learned to "
QUIZ = "The image for this question is at the end of the video.\n"
SCRIPT = {
    "it in long": "<think>A bird or a cat.</think><answer>B</answer>",
    "it in slow": "<answer>C</answer>",
    "number 0": "<think>A. no</think><answer>C</answer>",
    "number 1": "<answer>\\boxed{C}</answer>",
    "number 2": "<think>41?</think><answer>42</answer>",
    "happens in slow": "<think>(A)</think><answer>D</answer>",
    "happens in one": "<answer>A</answer>",
}
# A piece of the question → clip, what stands for {Question}, type, whether a picture follows.
ASKED = {
    "it in long": ("long", f"Who is it in long?{FOUR}", CHOICE, False),
    "it in slow": ("slow", f"Who is it in slow?{FOUR}", CHOICE, False),
    "number 0": (
        "seven",
        f"Please ignore the Quiz question in last frame of the video.\nWhat is number 0?{FOUR}",
        CHOICE,
        False,
    ),
    "number 1": (
        "slow",
        f"{LEARN}answer the following multi-choice question. {QUIZ}What is number 1?{FOUR}",
        CHOICE,
        True,
    ),
    "number 2": (
        "three",
        f"{LEARN}answer the following open-ended question. {QUIZ}What is number 2?",
        NUMBER,
        True,
    ),
    "happens in slow": ("slow", f"What happens in slow?{FOUR}", CHOICE, False),
    "happens in one": ("one", f"What happens in one?{FOUR}", CHOICE, False),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_pairs):
    """The shipped run file's replaying arm, with a tiny pair in place of the published one."""
    root = tmp_path_factory.mktemp("video")
    sets.write_vlmevalkit(root / "sets", sets.make_clips(root / "clips"))
    pair = sets.pair_file(root / "mine.yaml", *tiny_pairs["qwen2_5_vl"])
    shipped = json.loads(RUN_FILE.read_text())
    assert {entry["pair"] for entry in shipped["model"].values()} == {"video_r1_7b"}
    entry = {**shipped["model"]["Video-R1-7B-replay"], "pair": str(pair)}
    file = root / "run.json"
    file.write_text(json.dumps({"model": {"tiny": entry}, "data": shipped["data"]}))
    (root / "script.json").write_text(json.dumps(SCRIPT))
    words = [sys.executable, "-m", "tests.support.video_harness", str(root / "script.json")]
    words += [str(root / "log.jsonl"), "vlmeval", "--config", str(file)]
    words += ["--work-dir", str(root / "out"), "--judge", "exact_matching"]
    ours = {"CLIPS": str(root / "sets"), "PRED_FORMAT": "tsv", "HF_HUB_OFFLINE": "1"}
    ours |= {"HUGGINGFACE_TOKEN": "not asked for", "LMUData": str(root)}
    ours |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(
        words,
        env={**os.environ, **ours},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
    return root / "out", read_lines(root / "log.jsonl")


def line(ran, key):
    (found,) = [one for one in ran[1] if key in one["prompt"]]
    return found


@pytest.mark.parametrize("key", ASKED)
def test_each_question_is_asked_in_the_published_words_and_no_others(ran, key):
    _, question, kind, picture = ASKED[key]
    text = PUBLISHED["video_r1_question_template"].replace("{Question}", question)
    text += PUBLISHED["video_r1_type_templates"][kind]
    seen = "<|vision_start|><|video_pad|><|vision_end|>"
    seen += "<|vision_start|><|image_pad|><|vision_end|>" if picture else ""
    assert line(ran, key)["prompt"] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{seen}{text}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("key", ASKED)
def test_frames_and_positions_are_the_clips_own_also_beside_a_picture(ran, key, tiny_pairs):
    """By hand: 16 frames, or as many as there are in pairs; ticks of the seconds of each pair."""
    config = json.loads((tiny_pairs["qwen2_5_vl"].policy / "config.json").read_text())
    ticks = config["vision_config"]["tokens_per_second"]
    frames, rate, _ = sets.CLIPS[ASKED[key][0]]
    pairs = max(1, min(16, frames) // 2)
    found = line(ran, key)
    assert [grid[0] for grid in found["grids"]] == [pairs]
    seconds = frames / rate / max(1, min(16, frames // 2 * 2)) * 2
    assert found["rates"] == pytest.approx([seconds])
    assert found["temporal"] == sorted({int(n * seconds * ticks + 1e-6) for n in range(pairs)})


def test_answers_are_scored_by_the_sets_own_scorers(ran):
    work, _ = ran
    holmes = answers(work, "tiny", "Video_Holmes_16frame")
    assert [row["scores"] for row in holmes.lines] == [[1.0], [0.0]]
    mlvu = answers(work, "tiny", "MLVU_MCQ_16frame")
    assert [row["scores"] for row in mlvu.lines] == [[1.0], [0.0], [0.0]]
    outcomes = [row["replay"][0]["outcome"] for row in mlvu.lines]
    assert outcomes == ["applied", "applied", "unreadable_input"]
    mmmu = answers(work, "tiny", "VideoMMMU_16frame")
    assert [row["replay"][0]["answer"] for row in mmmu.lines] == [
        row["predictions"][0] for row in mmmu.lines
    ]
    (table,) = mmmu.folder.rglob("*VideoMMMU_16frame_score*.csv")
    overall = pd.read_csv(table)["Overall"].tolist()
    # Upstream reads the parsed numbers of an open question back from its file as one text, so that
    # "42" does not count: a limit of the stock scorer.
    assert overall == pytest.approx([3, 2, 200 / 3])
    assert mmmu.totals["protocol_settings"]["max_num_frames"] == 16


def test_a_pair_without_a_template_is_asked_in_the_sets_own_words():
    from replay_adapters.settings.pairs import Protocol
    from replay_adapters.vlmevalkit.video_questions import bare

    class Video_Holmes:  # noqa: N801
        """Known by its name."""

    prompt = [{"type": "video", "value": "a.mp4"}, {"type": "text", "value": "The set's."}]
    row = {"question": "Who?", "candidates": "['A. I', 'B. you']"}
    assert bare(prompt, row, Video_Holmes(), Protocol(user_suffix="!")) == prompt
    with_template = Protocol(question_template="<{Question}>")
    asked = bare(prompt, row, Video_Holmes(), with_template)
    assert [part["type"] for part in asked] == ["video", "text"]
    assert asked[1]["value"] == "Who?Options:\nA. I\nB. you\n"
    assert bare(prompt, row, object(), with_template) == prompt


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """No modelscope, no token, nothing fetched."""
    import huggingface_hub

    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HUGGINGFACE_TOKEN", raising=False)
    monkeypatch.setenv("VLMEVALKIT_USE_MODELSCOPE", "")  # so that it is put back
    monkeypatch.delenv("VLMEVALKIT_USE_MODELSCOPE")
    return tmp_path


def test_sets_come_from_the_hub_where_modelscope_is_not_installed(nobody, monkeypatch):
    fetching.check_sets(["Video_Holmes", "VideoMMMU"])
    assert os.environ["VLMEVALKIT_USE_MODELSCOPE"] == "0"
    monkeypatch.setenv("VLMEVALKIT_USE_MODELSCOPE", "True")
    with pytest.raises(UsageError, match=r"=True needs the package modelscope.*or set VLM.*=0"):
        fetching.check_sets(["Video_Holmes"])


def test_mlvu_is_refused_without_a_token_unless_it_was_fetched(nobody, monkeypatch):
    with pytest.raises(UsageError, match=r"MLVU_MCQ is fetched from .*MLVU/MVLU.* set HUGG"):
        fetching.check_sets(["VideoMMMU", "MLVU_MCQ"])
    kept = nobody / "datasets--MLVU--MVLU" / "snapshots" / "1a"
    kept.mkdir(parents=True)
    (kept / "MLVU_MCQ.tsv").touch()
    fetching.check_sets(["MLVU_MCQ"])


def test_a_fresh_videommmu_is_unpacked_once(harness, tmp_path, monkeypatch):
    import shutil

    from vlmeval.dataset import videommmu

    from replay_adapters.vlmevalkit import patches

    (tmp_path / "in" / "Art").mkdir(parents=True)
    (tmp_path / "in" / "Art" / "dev_Art_1.mp4").write_bytes(b"clip")
    shutil.make_archive(str(tmp_path / "set" / "Art"), "zip", tmp_path / "in")
    monkeypatch.setattr(videommmu, "snapshot_download", lambda **given: str(tmp_path / "set"))
    patches.videommmu_is_unpacked()
    assert videommmu.snapshot_download(repo_id="x") == str(tmp_path / "set")
    clip = tmp_path / "set" / "videos" / "Art" / "dev_Art_1.mp4"
    assert clip.read_bytes() == b"clip"
    clip.write_bytes(b"kept")
    videommmu.snapshot_download(repo_id="x")
    assert clip.read_bytes() == b"kept"
