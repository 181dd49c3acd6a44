"""DeepEyes' conversations in the real lmms-eval, on data in the sets' own schemas.

What the policy writes is scripted, token by token; pictures, crops, prompts, visual tokens, x,
records and scores are real.
"""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from lmms_eval.api.metrics import clustered_stderr

from replay_core.jsonl import finished_lines, read_lines
from tests.replay_adapters.conftest import Command
from tests.support import deepeyes_sets as sets

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
# 640 x 480 is shown as 252 x 168: this box is the white square of every picture.
SHOWN, SCALE = (252, 168), (640 / 252, 480 / 168)
SQUARE = [126, 84, 157.5, 105]
ZOOM = f"<think>Closer.</think>{sets.call(SQUARE)}"
FIRST, SECOND = "What colour is the car", "What colour is the bus"
DIRECTLY = "\nAnswer with the option's letter from the given choices directly."
SCRIPT = {
    FIRST: [ZOOM, "<think>Now.</think><answer>A</answer>"],
    SECOND: ["<answer>I cannot tell.</answer>"],
    "Where is the dog": [f"<answer>(B)</answer>{sets.call(SQUARE)}"],
    "Where is the cat": [sets.call([9, 9, 1, 1])],  # again and again
    "the sign say": [sets.call("x"), ZOOM, sets.call([0, 0, 28, 28]), "<answer>The STOP!</answer>"],
    "the plate say": [f"{sets.call(SQUARE, 'python')} and more words", "<answer></answer>"],
    "broken": ["<answer>never</answer>"],
}
TURNS = 4
PLAYED = [2, 2, 2, 2, 1, 1, 1, 1], [1, 4], [4, 2, 1]


@dataclass(frozen=True)
class Run:
    """A run's folder, and the calls of generate in it."""

    folder: Path
    calls: list[dict]
    output: str

    def samples(self, task: str) -> list[dict]:
        (path,) = self.folder.rglob(f"*_samples_here_{task}.jsonl")
        return sorted(finished_lines(path), key=lambda sample: sample["doc_id"])

    @property
    def results(self) -> dict:
        (path,) = self.folder.rglob("*_results.json")
        return json.loads(path.read_text())

    @property
    def records(self) -> list[list[dict]]:
        """The records of each document, task after task."""
        return [sample["replay"] for task in TASKS for sample in self.samples(task)]


TASKS = ("deepeyes_hrbench4k", "deepeyes_vstar", "deepeyes_visualprobe_hard")


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_pairs):
    """A folder with tasks, script and pair file."""
    root = tmp_path_factory.mktemp("deepeyes")
    (root / "tasks").mkdir()
    sets.write_hrbench(root / "tasks", [f"{FIRST}?", f"{SECOND}?"])
    options = "?\n(A) left (of it)\n(B) right"
    asked = [f"Where is the dog{options}{DIRECTLY}", f"Where is the cat{options}{DIRECTLY}"]
    sets.write_vstar(root / "tasks", asked, ["B", "A"])
    asked = ["What does the sign say?", "What does the plate say?", "Is this broken?"]
    sets.write_visualprobe(root / "tasks", asked, ["stop", "AB 1", "yes"])
    (root / "script.json").write_text(json.dumps(SCRIPT))
    sets.pair_file(root / "mine.yaml", *tiny_pairs["qwen2_5_vl"], max_turns=TURNS)
    return root


def command(data, folder, more="", *flags, tasks=TASKS) -> Command:
    words = [sys.executable, "-m", "tests.support.scripted", str(data / "script.json")]
    words += [str(folder / "calls.jsonl"), "lmms_eval", "--model", "qwen2_vl_replay"]
    words += ["--model_args", f"pair={data / 'mine.yaml'}{more}", "--device", "cpu"]
    words += ["--tasks", ",".join(f"here_{task}" for task in tasks)]
    words += ["--include_path", str(data / "tasks"), "--log_samples"]
    return Command([*words, "--output_path", str(folder / "out"), *flags], folder)


def ran(prepared: Command) -> Run:
    ended = prepared.run()
    assert ended.code == 0, ended.output[-6000:]
    calls = read_lines(prepared.folder / "calls.jsonl")
    return Run(prepared.folder / "out", calls, ended.output)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory, cache):
    """Batches of one conversation, whole conversations kept in lmms-eval's own cache."""
    folder = tmp_path_factory.mktemp("alone")
    return ran(command(data, folder, "", "--batch_size", "1", "--use_cache", str(cache)))


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    """Batches of four; killed after two calls of generate, and started again."""
    folder = tmp_path_factory.mktemp("resumed")
    journal = folder / "answers.jsonl"
    prepared = command(data, folder, f",replay_journal={journal}", "--batch_size", "4")
    assert prepared.run_until(lambda: len(read_lines(journal)) >= 2) < 0
    finished = len(read_lines(journal))
    (folder / "calls.jsonl").unlink()
    return ran(prepared), finished


def by_question(run: Run, words: str) -> list[str]:
    """Return the prompts about a question, in the order of turns."""
    prompts = [prompt for call in run.calls for prompt in call["prompts"] if words in prompt]
    return sorted(prompts, key=len)


def test_what_reaches_the_tokenizer_is_the_published_protocol(alone):
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    response = "".join(PUBLISHED["deepeyes_tool_response_turn"])
    system = turn.format("system", PUBLISHED["deepeyes_system"])
    question = PUBLISHED["deepeyes_hrbench_question"].replace("{question}", f"{FIRST}?")
    options = "\nA. green\nB. blue\nC. grey\nD. red\n"
    asked = question.replace("{options}", options) + PUBLISHED["deepeyes_user"]
    first = system + turn.format("user", picture + asked)
    second = first + turn.format("assistant", ZOOM)
    second += turn.format("user", response.replace("<image>", picture))
    prompts = [one for one in by_question(alone, FIRST) if "A. green" in one]
    assert prompts == [one + "<|im_start|>assistant\n" for one in (first, second)]


def test_v_stars_own_instruction_is_not_asked_beside_the_protocols(alone):
    (prompt,) = by_question(alone, "Where is the dog")
    assert "Question: Where is the dog?\nOptions: \nA. left (of it)\nB. right\n\n\nThink" in prompt
    assert "directly" not in prompt


def test_a_refused_call_is_told_in_the_crops_place(alone):
    told = by_question(alone, "the plate say")[1]
    assert "<tool_response>There is no tool 'python'. The only one is image_zoom_in_tool." in told


def test_the_crop_enters_the_next_turns_visual_tokens(alone):
    calls = [call for call in alone.calls if FIRST in call["prompts"][0]]
    first, second = calls[:4], calls[4:]
    for before, after in zip(first, second, strict=True):
        assert before["grids"] == [[1, SHOWN[1] // 14, SHOWN[0] // 14]]
        assert before["visual"] == [54]
        # The square is 80 x 60 pixels of the original: 84 x 56, or 3 x 2 tokens.
        assert after["grids"] == [*before["grids"], [1, 4, 6]]
        assert after["visual"] == [60]
        # White, as the processor gives it to the vision tower, and so is nothing else.
        assert after["bright"][0] == before["bright"][0] < 0 < 1.9 < after["bright"][1]


def test_a_crop_is_not_blown_up_by_the_harness_s_own_min_pixels(alone):
    (record,) = [r for r in alone.samples(TASKS[2])[0]["replay"] if r["turn"] == 2]
    assert record["tool"]["crop"] == [0, 0, 72, 80]
    assert record["tool"]["size"] == [84, 84]
    assert [call["grids"][-1] for call in alone.calls if "the sign say" in call["prompts"][0]][
        -1
    ] == [1, 6, 6]


def test_every_turn_has_its_own_record_seed_and_box(alone):
    played = iter(alone.records)
    for expected in PLAYED:
        for turns, records in zip(expected, played, strict=False):
            assert [record["turn"] for record in records] == list(range(turns))
    seeds = [record["seed"] for records in alone.records for record in records]
    assert len(set(seeds)) == len(seeds)
    records = alone.samples(TASKS[2])[0]["replay"]
    assert "not 'x'" in records[0]["tool"]["told"]
    assert records[1]["tool"] == {
        "box": SQUARE,
        "crop": [320, 240, 400, 300],
        "size": [84, 56],
        "told": None,
    }
    assert records[3]["tool"] is None
    texts = [record["response"] for record in records]
    assert texts == SCRIPT["the sign say"]
    assert [record["answer"] for record in records] == [None, None, None, "The STOP!"]


def test_answers_end_behind_the_call_also_beside_longer_ones(resumed, tiny_pairs):
    run, _ = resumed
    from tests.support.tiny import load_processor

    tokenizer = load_processor(tiny_pairs["qwen2_5_vl"].policy).tokenizer
    checked = Counter()
    for records in run.records:
        for record in records:
            if record["outcome"] == "unreadable_input":
                continue
            length = len(tokenizer(record["response"]).input_ids)
            assert record["new_tokens"] == length
            assert (record["finish_reason"], record["truncated"]) == ("stop", False)
            checked[record["batch_size"]] += 1
    assert len(checked) > 1
    # Decoding stopped there, although the policy would have gone on.
    first, _ = run.samples(TASKS[2])[1]["replay"]
    assert first["response"] == sets.call(SQUARE, "python")


def test_each_set_is_scored_by_its_own_scorer(alone):
    results = alone.results["results"]
    hrbench = results[f"here_{TASKS[0]}"]
    # Of the first question's rotations one has the right answer at A; the second has none.
    assert hrbench["single,none"] == 0.25
    assert hrbench["cross,none"] == 0.0
    assert hrbench["average,none"] == 0.125
    scores, clusters = [1, *[0] * 7], [0, 0, 0, 0, 1, 1, 1, 1]
    expected = clustered_stderr(scores, clusters)
    assert hrbench["average_stderr_clustered,none"] == pytest.approx(expected)
    assert hrbench["average_stderr_clustered,none"] != hrbench["average_stderr_clt,none"]
    assert results[f"here_{TASKS[1]}"]["vstar_overall_acc,none"] == 50.0
    assert results[f"here_{TASKS[2]}"]["exact_match,none"] == pytest.approx(1 / 3)


def test_an_answer_without_an_option_loses_no_other(alone):
    samples = alone.samples(TASKS[0])
    assert [sample["average"]["gpt_score"] for sample in samples] == [1, *[0] * 7]


def test_a_broken_picture_costs_its_own_conversation_only(alone):
    (record,) = alone.samples(TASKS[2])[2]["replay"]
    assert record["outcome"] == "unreadable_input"
    assert alone.results["replay"]["totals"]["outcomes"] == {"applied": 23, "unreadable_input": 1}


def test_conversations_share_the_batches_of_each_round(alone, resumed):
    run, finished = resumed
    assert len(alone.calls) == sum(map(sum, PLAYED)) - 1  # nobody answers the broken picture
    # Live conversations by round: 8, 4 of HR-Bench; 2, 1, 1, 1 of V*; 3, 2, 1, 1 of VisualProbe.
    live = [8, 4, 2, 1, 1, 1, 3, 2, 1, 1]
    assert sum(live) == sum(map(sum, PLAYED))
    assert len(run.calls) + finished == sum(-(-number // 4) for number in live) == 11


def test_a_killed_run_repeats_no_finished_turn_and_ends_the_same(alone, resumed):
    run, finished = resumed
    assert finished >= 2
    assert run.results["results"].keys() == alone.results["results"].keys()
    for task in TASKS:
        mine, theirs = run.samples(task), alone.samples(task)
        assert [s["filtered_resps"] for s in mine] == [s["filtered_resps"] for s in theirs]
    for mine, theirs in zip(run.records, alone.records, strict=True):
        for ours, other in zip(mine, theirs, strict=True):
            for name in ("turn", "tool", "seed", "outcome", "response", "answer", "new_tokens"):
                assert ours[name] == other[name]
            if ours["loss_after"] is not None:
                # Padding changes float32 sums in the last digits, and 25 steps amplify it.
                losses = [
                    [record[n] for n in ("loss_before", "loss_after")] for record in (ours, other)
                ]
                assert np.allclose(*losses, rtol=1e-3)


def test_use_cache_serves_whole_conversations(data, alone, cache, tmp_path):
    prepared = command(data, tmp_path, "", "--batch_size", "1", "--use_cache", str(cache))
    ended = prepared.run()
    assert ended.code == 0, ended.output[-3000:]
    # Only the unreadable picture is asked again, and nothing is generated for it.
    assert not (tmp_path / "calls.jsonl").exists()
    served = Run(tmp_path / "out", [], ended.output)
    for task in TASKS:
        mine, theirs = served.samples(task), alone.samples(task)
        assert [s["filtered_resps"] for s in mine] == [s["filtered_resps"] for s in theirs]
    assert served.results["results"] == alone.results["results"]


def test_x_of_an_earlier_picture_is_kept_where_it_is_asked(data, alone, tmp_path):
    more = ("--batch_size", "2", "--num_samples", "2")
    reused = ran(command(data, tmp_path, ",replay_turns=reuse", *more, tasks=TASKS[2:]))
    found = x_of(reused, "the sign say")
    assert found[::2] == found[1::2]  # both repeats, in batches of their own
    first, refused, crop, two_crops = found[::2]
    assert [len(x) for x in (first, refused, crop, two_crops)] == [54, 54, 60, 69]
    assert np.allclose(first, refused, rtol=1e-6)  # no new picture: nothing is found
    assert np.allclose(first, crop[:54], rtol=1e-6)
    assert np.allclose(crop, two_crops[:60], rtol=1e-6)
    assert min(two_crops) > 0
    again = x_of(alone, "the sign say")
    assert not np.allclose(again[0], again[-1][:54], rtol=1e-2)
    assert reused.results["replay"]["turns"] == "reuse"
    records = reused.samples(TASKS[2])[0]["replay"]
    # Conversation after conversation, each with its own seeds.
    assert [record["turn"] for record in records] == [0, 1, 2, 3] * 2
    assert [record["steps"] for record in records] == [25, 0, 25, 25] * 2
    assert [record["response"] for record in records] == SCRIPT["the sign say"] * 2
    assert len({record["seed"] for record in records}) == 8


def x_of(run: Run, words: str) -> list[list[float]]:
    """Return the norms of x, token by token, in the turns of a conversation."""
    return [
        call["x"][row]
        for call in run.calls
        for row, prompt in enumerate(call["prompts"])
        if words in prompt
    ]


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            "hrbench4k",
            "task hrbench4k does not answer the tool calls .* take deepeyes_hrbench4k or",
        ),
        (
            "vstar_bench",
            "take deepeyes_vstar or VStarBench, which does, or ask .*replay_protocol=task",
        ),
    ],
)
def test_a_task_without_the_loop_is_refused_before_anything_is_loaded(
    lmms_eval_command, data, task, says
):
    ended = lmms_eval_command("qwen2_vl_replay", f"pair={data / 'mine.yaml'}", task).run()
    assert ended.code == 2
    assert ended.output.count("\n") == 1
    assert re.search(says, ended.output), ended.output


def test_an_own_task_without_the_loop_and_a_simple_class_are_refused(several_lmms_evals, data):
    module, pair = "replay_adapters.lmms_eval.launcher", f"pair={data / 'mine.yaml'}"
    common = (module, "qwen2_vl_replay", pair)
    asked, simple = several_lmms_evals(
        [
            (*common, "replay_test_pictures"),
            (*common, "replay_test_rounds", "--force_simple"),
        ]
    )
    assert asked.code == simple.code == 2, asked.output[-3000:]
    assert "task replay_test_pictures does not answer the tool calls" in asked.output
    assert "which the simple class cannot hold; leave out --force_simple" in simple.output
