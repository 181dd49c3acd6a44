"""The installed plugin through the real harness, judged by the files that the harness writes."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.replay_adapters.conftest import REPLAY
from tests.support import tiny

# Qwen2.5-VL's class would enlarge every picture to 256 tokens.
PIXELS = "min_pixels=3136,max_pixels=50176"


def arguments(pair, *more: str) -> str:
    return ",".join([f"pretrained={pair.policy}", f"replay_base={pair.base}", PIXELS, *more])


@pytest.fixture(scope="module")
def replayed(lmms_eval, tiny_pairs):
    """Qwen2.5-VL in float32, batches of 3."""
    given = arguments(tiny_pairs["qwen2_5_vl"], REPLAY, "dtype=float32")
    return lmms_eval("qwen2_vl_replay", given, "replay_test_pictures", "--batch_size", "3")


def test_every_sample_has_its_record_and_the_results_their_totals(replayed):
    assert replayed.code == 0, replayed.output
    assert len(replayed.samples) == 6
    # Pictures of 28 px a token; document 3 has a second one of 2 x 3 tokens.
    tokens = {0: 15, 1: 8, 2: 12, 3: 15 + 6, 4: 9, 5: 8}
    # Pictures of 28 px a token; document 3 has a second one of 2 x 3 tokens.
    tokens = {0: 15, 1: 8, 2: 12, 3: 15 + 6, 4: 9, 5: 8}
    for document, sample in replayed.samples.items():
        (record,) = sample["replay"]
        assert record["outcome"] == "applied"
        assert record["loss_after"] < record["loss_before"]
        assert record["visual_tokens"] == tokens[document]
        assert record["batch_size"] == 3
    replay = replayed.results["replay"]
    assert replay["totals"]["outcomes"] == {"applied": 6}
    assert replay["config"]["layers"] == 3
    assert replay["policy_revision"] != replay["base_revision"]


def test_batches_change_no_answer_and_no_loss_in_float32(lmms_eval, tiny_pairs, replayed):
    given = arguments(tiny_pairs["qwen2_5_vl"], REPLAY, "dtype=float32")
    alone = lmms_eval("qwen2_5_vl_replay", given, "replay_test_pictures", "--batch_size", "1")
    assert alone.answers == replayed.answers
    for one, other in zip(alone.records, replayed.records, strict=True):
        assert one["loss_after"] == pytest.approx(other["loss_after"], rel=1e-4)
        assert one["seed"] == other["seed"]


@pytest.mark.parametrize(
    ("family", "model", "more"),
    [
        ("qwen2_5_vl", "qwen2_5_vl", ()),
        ("qwen2_5_vl", "qwen2_5_vl", ("--force_simple",)),
        ("qwen2_vl", "qwen2_vl", ()),
    ],
)
def test_without_replay_answers_are_the_stock_models(lmms_eval, tiny_pairs, family, model, more):
    """Text for text, on a task that keeps prompts and lengths for the parent's name."""
    policy = tiny_pairs[family].policy
    common = ("replay_test_pictures", "--batch_size", "3", *more)
    stock = lmms_eval(
        model, f"pretrained={policy},device_map=cpu,{PIXELS}", *common, module="lmms_eval"
    )
    ours = lmms_eval(
        "qwen2_vl_replay",
        f"pretrained={policy},{PIXELS},replay_method=none,replay_protocol=task",
        *common,
    )
    assert ours.code == 0, ours.output
    assert ours.answers == stock.answers
    assert len(set(ours.answers.values())) > 1
    inputs = [{d: row["input"] for d, row in run.samples.items()} for run in (stock, ours)]
    assert inputs[0] == inputs[1]
    assert ours.results["replay"]["totals"]["outcomes"] == {"off": 6}


def test_zero_steps_equal_no_replay_and_the_base_arm_is_another_model(lmms_eval, tiny_pairs):
    pair = tiny_pairs["qwen2_vl"]
    zero, none, base = (
        lmms_eval("qwen2_vl_replay", arguments(pair, f"replay_{option}"))
        for option in ("steps=0", "method=none", "method=base")
    )
    assert zero.answers == none.answers
    assert zero.results["replay"]["totals"]["outcomes"] == {"no_effect": 6}
    assert base.answers != none.answers


def test_cached_answers_are_never_those_of_other_settings_or_weights(
    lmms_eval, tiny_pairs, tmp_path
):
    pair = tiny_pairs["qwen2_vl"]
    policy = shutil.copytree(pair.policy, tmp_path / "policy")
    file = tmp_path / "mine.yaml"

    def run(threshold: float):
        file.write_text(
            f"policy: {policy}\nbase: {pair.base}\n"
            f"replay: {{layers: 3, threshold: {threshold}, step_size: 3}}\n"
        )
        cache = ("--use_cache", str(tmp_path / "cache"))
        return lmms_eval("qwen2_vl_replay", f"pair={file}", "replay_test_pictures", *cache)

    first = run(0.7)
    again = run(0.7)
    assert "6/6 cache hits" in again.output
    assert again.answers == first.answers
    assert again.records == []
    assert "cache hits" not in run(0.6).output  # the text of --model_args is the same
    weights = policy / "model.safetensors"
    shutil.copy(pair.base / "model.safetensors", weights)
    assert "cache hits" not in run(0.7).output


def test_a_failed_evaluation_has_a_non_zero_exit_code(lmms_eval, tiny_pairs):
    given = arguments(tiny_pairs["qwen2_vl"], "replay_method=none")
    ended = lmms_eval("qwen2_vl_replay", given, "replay_test_failing", "--limit", "1")
    assert ended.code == 1
    assert "lmms_eval: failed: RuntimeError: this scorer always fails" in ended.output


def test_the_pairs_protocol_reaches_the_prompt(lmms_eval, tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_5_vl"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"policy: {pair.policy}\nbase: {pair.base}\nreplay: {{layers: 2, threshold: 0.7}}\n"
        "protocol: {system_prompt: Think hard., min_pixels: 3136, max_pixels: 50176,\n"
        "  generation: {max_new_tokens: 3}}\n"
    )
    limit = ("replay_test_pictures", "--limit", "2")
    own = lmms_eval("qwen2_vl_replay", f"pair={file}", *limit)
    task = lmms_eval("qwen2_vl_replay", f"pair={file},replay_protocol=task", *limit)
    assert own.results["replay"]["protocol_settings"]["system_prompt"] == "Think hard."
    assert {record["new_tokens"] for record in own.records} == {3}
    assert {record["new_tokens"] for record in task.records} == {8}


@pytest.mark.parametrize("module", ["replay_adapters.lmms_eval.launcher", "lmms_eval"])
def test_our_tasks_are_found_without_a_flag(lmms_eval, module):
    listed = lmms_eval("qwen2_vl_replay", "", "list", module=module)
    assert "replay_demo" in listed.output
    assert "mmmu_val_long" in listed.output


def test_every_round_of_a_multi_round_task_has_its_record(lmms_eval, tiny_pairs):
    """With the simple class: upstream's chat class cannot run these tasks."""
    given = arguments(tiny_pairs["qwen2_5_vl"], REPLAY, "dtype=float32")
    more = ("--force_simple", "--limit", "2", "--gen_kwargs", "max_new_tokens=4")
    ended = lmms_eval("qwen2_vl_replay", given, "replay_test_rounds", *more)
    assert ended.code == 0, ended.output
    assert [len(sample["replay"]) for sample in ended.samples.values()] == [2, 2]
    assert {record["outcome"] for record in ended.records} == {"applied"}


def test_sampled_answers_are_the_same_in_two_runs(lmms_eval, tiny_pairs):
    given = arguments(tiny_pairs["qwen2_vl"], "replay_method=none")
    sampled = ("--gen_kwargs", "temperature=1", "--limit", "4")
    first, second = (
        lmms_eval(
            "qwen2_vl_replay", f"{given},replay_seed={seed}", "replay_test_pictures", *sampled
        )
        for seed in (0, 0)
    )
    assert first.answers == second.answers
    other = lmms_eval("qwen2_vl_replay", f"{given},replay_seed=1", "replay_test_pictures", *sampled)
    assert other.answers != first.answers


def test_a_lora_adapter_is_a_pair_by_itself(lmms_eval, tiny_pairs, tmp_path):
    base = tiny_pairs["qwen2_5_vl"].base
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_peft_model(tiny.load_model(base), lora).save_pretrained(tmp_path / "adapter")
    common = [f"pretrained={tmp_path / 'adapter'}", PIXELS, "dtype=float32"]
    injects = ["replay_method=inject", "replay_select=all", "replay_layers=3"]
    runs = [
        lmms_eval("qwen2_vl_replay", ",".join([*common, *more]), "replay_test_pictures")
        for more in (injects, ["replay_method=base"])
    ]
    stock = f"pretrained={base},{PIXELS},device_map=cpu"
    stock += ",replay_method=none,replay_base=" + str(base) + ",dtype=float32"
    runs.append(lmms_eval("qwen2_vl_replay", stock, "replay_test_pictures"))
    assert [run.code for run in runs] == [0, 0, 0], runs[0].output
    injected, as_base, stocked = runs
    assert injected.results["replay"]["totals"]["outcomes"] == {"applied": 6}
    assert injected.results["replay"]["config"]["method"] == "inject"
    assert as_base.answers == stocked.answers != injected.answers
