"""Video-R1's tasks in the real lmms-eval, on data in the sets' own schemas and real mp4 files.

What the policy writes is scripted; prompts, frames, positions, x, records and scores are real.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from replay_adapters.runs.compare import compare_runs
from replay_adapters.runs.reader import read_runs
from replay_core.jsonl import finished_lines, read_lines
from tests.replay_adapters.conftest import Command
from tests.support import video_sets as sets

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
CHOICE, NUMBER, WORDS = "multiple choice", "numerical", "free-form"
# A piece of the question → what is written: right, wrong, and in other forms.
SCRIPT = {
    "dev_Art_1": "<think>A bird?</think><answer>B</answer>",
    "dev_Music_2": "<think>A.</think>\n<answer>(C)</answer>",
    "dev_Math_1": "<answer>D</answer>",
    "dev_Math_2": "<think>3 or 4?</think><answer>3.14</answer>",
    "dev_Math_3": "<answer>a prism</answer>",
    "it in long": "<think>A, B or C</think><answer>F</answer>",
    "it in slow": "<answer>A</answer>",
    "in clip 0": "<think>B</think><answer>E</answer>",
    "in clip 2": "<answer>E. none</answer>",
    "happens in slow": "<think>(A)</think><answer>D</answer>",
    "happens in seven": "<answer>D</answer>",
}
FOUR = "A. a bird\nB. a fish\nC. a cat\nD. a dog\n"
IGNORE = "Please ignore the Quiz question in last frame of the video.\n"
LEARN = "You should watch and learn the video content. Then apply what you learned to "
QUIZ = "The image for this question is at the end of the video.\n"
# A piece of the question → what stands for {Question} in the template, and its type.
ASKED = {
    "dev_Art_1": (f"{IGNORE}What is in dev_Art_1?Options:\n{FOUR}", CHOICE),
    "dev_Music_2": (f"{IGNORE}What is in dev_Music_2?Options:\n{FOUR}", CHOICE),
    "dev_Math_1": (
        f"{LEARN}answer the following multi-choice question. {QUIZ}"
        f"What is in dev_Math_1?Options:\n{FOUR}",
        CHOICE,
    ),
    "dev_Math_2": (
        f"{LEARN}answer the following open-ended question. {QUIZ}What is in dev_Math_2?",
        NUMBER,
    ),
    "dev_Math_3": (
        f"{LEARN}answer the following open-ended question. {QUIZ}What is in dev_Math_3?",
        WORDS,
    ),
    "it in long": (f"Who is it in long?Options:\n{FOUR}E. a cow\nF. nobody\n", CHOICE),
    "it in slow": (f"Who is it in slow?Options:\n{FOUR}E. a cow\nF. nobody\n", CHOICE),
    "in clip 0": (f"Which process is in clip 0?Options:\n{FOUR}E. none\n", CHOICE),
    "in clip 2": (f"Which process is in clip 2?Options:\n{FOUR}E. none\n", CHOICE),
    "happens in slow": (f"What happens in slow?Options:\n{FOUR}", CHOICE),
    "happens in seven": (f"What happens in seven?Options:\n{FOUR}", CHOICE),
}
CLIP_OF = {
    **{"dev_Art_1": "long", "dev_Music_2": "seven", "dev_Math_1": "slow", "dev_Math_2": "three"},
    **{"dev_Math_3": "one", "it in long": "long", "it in slow": "slow", "in clip 0": "seven"},
    **{"in clip 2": "three", "happens in slow": "slow", "happens in seven": "seven"},
}


@dataclass(frozen=True)
class Run:
    """A run's folder, and a line for each prompt of it."""

    folder: Path
    lines: list[dict]

    def samples(self, task: str) -> list[dict]:
        (path,) = self.folder.rglob(f"*_samples_here_video_r1_{task}.jsonl")
        return sorted(finished_lines(path), key=lambda sample: sample["doc_id"])

    @property
    def results(self) -> dict:
        (path,) = self.folder.rglob("*_results.json")
        return json.loads(path.read_text())

    def line(self, key: str) -> dict:
        (found,) = [line for line in self.lines if key in line["prompt"]]
        return found


def wire(key: str) -> str:
    question, kind = ASKED[key]
    text = PUBLISHED["video_r1_question_template"].replace("{Question}", question)
    text += PUBLISHED["video_r1_type_templates"][kind]
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|><|video_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_pairs):
    root = tmp_path_factory.mktemp("video")
    clips = sets.make_clips(root / "clips")
    tasks = sets.write_lmms_eval(root / "tasks", root / "home", clips)
    (root / "script.json").write_text(json.dumps(SCRIPT))
    sets.pair_file(root / "mine.yaml", *tiny_pairs["qwen2_5_vl"])
    return root, tasks


def run(data, folder: Path, *more: str) -> Run:
    root, tasks = data
    words = [sys.executable, "-m", "tests.support.video_harness", str(root / "script.json")]
    words += [str(folder / "log.jsonl"), "lmms_eval", "--model", "qwen2_vl_replay"]
    words += ["--model_args", f"pair={root / 'mine.yaml'}", "--device", "cpu", "--log_samples"]
    words += ["--tasks", ",".join(tasks), "--include_path", str(root / "tasks")]
    words += ["--output_path", str(folder / "out"), *more]

    class AtHome(Command):
        @property
        def environment(self):
            ours = {"HF_HOME": str(root / "home"), "PYTHONPATH": str(Path(__file__).parents[3])}
            return {**super().environment, **ours}

    ended = AtHome(words, folder).run()
    assert ended.code == 0, ended.output[-6000:]
    return Run(folder / "out", read_lines(folder / "log.jsonl"))


@pytest.fixture(scope="module", params=["chat", "simple"])
def ran(request, data, tmp_path_factory):
    """Batches of 3, of clips with different rates; the chat class and the simple one."""
    more = ["--force_simple"] if request.param == "simple" else []
    return run(data, tmp_path_factory.mktemp(request.param), "--batch_size", "3", *more)


@pytest.fixture(scope="module")
def ticks(tiny_pairs):
    """Temporal positions in a second."""
    config = json.loads((tiny_pairs["qwen2_5_vl"].policy / "config.json").read_text())
    return config["vision_config"]["tokens_per_second"]


def test_each_question_is_asked_in_the_published_words_of_its_type(ran):
    for key in ASKED:
        assert ran.line(key)["prompt"] == wire(key)
        assert ran.line(key)["limit"] == 160  # the pair's, not the 16 of MLVU's own task
    assert {kind for _, kind in ASKED.values()} == {CHOICE, NUMBER, WORDS}


def test_the_final_answers_are_scored_by_the_sets_own_scorers(ran):
    results = ran.results["results"]
    parts = ("perception", "comprehension", "adaptation")
    found = [results[f"here_video_r1_videommmu_{part}"]["mmmu_acc,none"] for part in parts]
    assert found == pytest.approx([1, 1, 2 / 3], abs=1e-4)
    # Four of five questions, not the mean of the three parts.
    assert results["here_video_r1_videommmu"]["mmmu_acc,none"] == pytest.approx(0.8, abs=1e-4)
    holmes = results["here_video_r1_videoholmes"]
    assert holmes["video_holmes_accuracy,none"] == pytest.approx(100 / 3)
    assert results["here_video_r1_mmvu_mc"]["accuracy,none"] == 100
    plot = [s["mlvu_percetion_score"] for s in ran.samples("mlvu_mc")]
    assert [p["pred_answer"] == p["answer"] for p in plot] == [True, False, False, False, True]


def test_the_group_is_read_as_one_run_over_the_questions_of_its_parts(ran):
    (run,) = read_runs(ran.folder, ["here_video_r1_videommmu"])
    assert [item.score for item in run.items.values()] == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert (run.metric, run.asked, run.whole, run.own_number) == ("mmmu_acc", 5, 5, None)
    assert run.reported == pytest.approx(0.8, abs=1e-4)
    # Without its name only its parts are runs: no question counts twice.
    assert "here_video_r1_videommmu" not in {each.task for each in read_runs(ran.folder)}
    (found,) = compare_runs(ran.folder, ran.folder, tasks=["here_video_r1_videommmu"])
    assert (found.report.n, found.report.difference) == (5, 0.0)


def test_mmvu_asks_its_multiple_choice_questions_only(ran):
    found = [s["accuracy"]["question_id"] for s in ran.samples("mmvu_mc")]
    assert found == ["validation_0", "validation_2"]


def test_unreadable_clips_have_a_named_outcome_and_end_nothing(ran):
    names = ("slow", "sound", "cut", "absent", "seven")
    found = [sample["replay"][0] for sample in ran.samples("mlvu_mc")]
    records = dict(zip(names, found, strict=True))
    outcomes = {name: record["outcome"] for name, record in records.items()}
    unread = dict.fromkeys(names[1:4], "unreadable_input")
    assert outcomes == {"slow": "applied", "seven": "applied", **unread}
    assert "it has sound, but no picture" in records["sound"]["error"]
    assert "absent.mp4 does not exist" in records["absent"]["error"]
    absent = ran.samples("videoholmes")[2]["replay"][0]
    assert (absent["outcome"], absent["error"]) == (
        "unreadable_input",
        "clip absent: there is no such file",
    )


def test_the_pairs_frames_are_recorded_and_at_work(ran):
    assert ran.results["replay"]["protocol_settings"]["max_num_frames"] == 16
    assert max(grid[0] for line in ran.lines for grid in line["grids"]) == 8  # pairs of frames


def test_temporal_positions_are_the_clips_own_in_a_mixed_batch(ran, ticks):
    """By hand: positions tick with the seconds that each pair of sampled frames stands for."""
    seen = set()
    for key, clip in CLIP_OF.items():
        frames, rate, _ = sets.CLIPS[clip]
        temporal = ran.line(key)["temporal"]
        # Never more frames than the clip has; one frame is a pair with itself.
        sampled = min(16, frames // 2 * 2)
        seconds = frames / rate * 2 / max(1, sampled)
        steps = range(max(1, sampled // 2))
        assert temporal == sorted({int(step * seconds * ticks + 1e-6) for step in steps}), key
        seen.add(seconds)
    assert len(seen) == len(sets.CLIPS)
    assert any(len(line["grids"]) == 3 and len(set(line["rates"])) == 3 for line in ran.lines)
