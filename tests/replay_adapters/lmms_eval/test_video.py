"""Real mp4 files through lmms-eval's own sampling and decoding, in both arms."""

import pytest

from tests.replay_adapters.conftest import REPLAY

TASK = "replay_test_clips"
PIXELS = "min_pixels=3136,max_pixels=12544,max_num_frames=8"
FAMILIES = [("qwen2_5_vl", "qwen2_5_vl"), ("qwen2_vl", "qwen2_vl"), ("qwen3_vl", "qwen3_vl")]


@pytest.fixture(scope="module")
def ended(several_lmms_evals, tiny_pairs):
    """Per family: the stock class, the same without replay, and replay; in float32 where it is."""
    wanted = []
    for family, name in FAMILIES:
        pair = tiny_pairs[family]
        policy = f"pretrained={pair.policy},{PIXELS}"
        ours = f"{policy},replay_base={pair.base},dtype=float32,{REPLAY}"
        wanted.append(("lmms_eval", name, f"{policy},device_map=cpu", TASK))
        wanted.append(("ours", f"{name}_replay", f"{policy},replay_method=none", TASK))
        wanted.append(("ours", f"{name}_replay", ours, TASK))
    return several_lmms_evals(wanted)


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=[name for name, _ in FAMILIES])
def test_videos_are_answered_alike_without_replay_and_replayed_with_it(ended, number):
    stock, none, replayed = ended[3 * number : 3 * number + 3]
    assert [run.code for run in (stock, none, replayed)] == [0, 0, 0], none.output[-3000:]
    assert none.answers == stock.answers
    assert len(set(none.answers.values())) > 1
    assert {record["outcome"] for record in replayed.records} == {"applied"}
    for record in replayed.records:
        assert record["loss_after"] < record["loss_before"]
        assert record["visual_tokens"] >= 8  # more than one frame's
