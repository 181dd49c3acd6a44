"""Prompts without a question are answered as by the stock class, with the pair's words behind."""

import pytest

from tests.replay_adapters.conftest import REPLAY
from tests.replay_adapters.lmms_eval.test_end_to_end import PIXELS


@pytest.fixture(scope="module")
def runs(several_lmms_evals, tiny_pairs, tmp_path_factory):
    """Both prompts through the stock class, and the prompts without a question through ours."""
    pair = tiny_pairs["qwen2_5_vl"]
    file = tmp_path_factory.mktemp("pair") / "mine.yaml"
    file.write_text(
        f"policy: {pair.policy}\nbase: {pair.base}\nprotocol: {{user_suffix: Box it.}}\n"
    )
    stock = ("lmms_eval", "qwen2_5_vl", f"pretrained={pair.policy},device_map=cpu,{PIXELS}")
    none = f"pair={file},{PIXELS},replay_method=none"
    sampled = (
        "--limit",
        "1",
        "--seed",
        "7",
        "--gen_kwargs",
        "repetition_penalty=2.5,top_k=1,temperature=1.0",
    )
    names = ("wordless", "worded", "ours", "ours worded", "replayed", "ours sampled")
    ended = several_lmms_evals(
        [
            (*stock, "replay_test_wordless"),
            (*stock, "replay_test_worded"),
            ("ours", "qwen2_vl_replay", f"{none},replay_protocol=task", "replay_test_wordless"),
            ("ours", "qwen2_vl_replay", none, "replay_test_wordless"),
            ("ours", "qwen2_vl_replay", f"pair={file},{PIXELS},{REPLAY}", "replay_test_wordless"),
            ("ours", "qwen2_vl_replay", none, "replay_test_wordless", *sampled),
        ]
    )
    return dict(zip(names, ended, strict=True))


def test_without_a_protocol_the_prompt_is_the_tasks(runs):
    assert runs["ours"].code == 0, runs["ours"].output
    assert runs["ours"].answers == runs["wordless"].answers


def test_the_pairs_words_are_a_text_of_their_own(runs):
    assert runs["ours worded"].answers == runs["worded"].answers != runs["wordless"].answers


def test_pictures_without_a_question_are_replayed(runs):
    (one, two, *others) = runs["replayed"].records
    assert two["outcome"] == "no_visual_tokens"  # the prompt that has none
    assert {record["outcome"] for record in (one, *others)} == {"applied"}


def test_a_setting_that_the_class_drops_is_told_of_once(runs):
    output = runs["ours sampled"].output
    assert runs["ours sampled"].code == 0
    assert output.count("--gen_kwargs repetition_penalty=2.5 changes nothing") == 1
    assert "--gen_kwargs top_k" not in output
    assert "--gen_kwargs temperature" not in output
    assert output.count("--seed 7,7,7,7 does not reach sampling") == 1  # the other runs have none
