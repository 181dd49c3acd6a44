"""Every family through the real harness: the stock class, the same without replay, and replay."""

import pytest

from tests.replay_adapters.conftest import REPLAY

# family, lmms-eval's name, further arguments
CLASSES = [
    ("qwen3_vl", "qwen3_vl"),
    ("qwen3_vl", "qwen3_vl", "--force_simple"),
    ("internvl", "internvl_hf"),
    ("llava", "llava_hf"),
    ("llava", "llava_hf", "--force_simple"),
    ("llava_onevision", "llava_hf"),
]
TASK = "replay_test_pictures"
LIMIT = ("--limit", "4")


@pytest.fixture(scope="module")
def ended(several_lmms_evals, tiny_pairs):
    """Per class its stock and its un-replayed run; one replayed run per name; then two failures."""
    wanted = []
    for family, name, *more in CLASSES:
        policy = f"pretrained={tiny_pairs[family].policy}"
        wanted.append(("lmms_eval", name, f"{policy},device_map=cpu", TASK, *LIMIT, *more))
        wanted.append(
            ("ours", f"{name}_replay", f"{policy},replay_method=none", TASK, *LIMIT, *more)
        )
    for family, name in (("qwen3_vl", "qwen3_vl"), ("internvl", "internvl_hf")):
        pair = tiny_pairs[family]
        given = f"pretrained={pair.policy},replay_base={pair.base},dtype=float32,{REPLAY}"
        wanted.append(("ours", f"{name}_replay", given, TASK, *LIMIT))
    pair = tiny_pairs["llava"]
    given = f"pretrained={pair.policy},replay_base={pair.base},{REPLAY}"
    wanted.append(("ours", "llava_hf_replay", given, TASK, "--limit", "2", "--force_simple"))
    broken = ("--limit", "1", "--gen_kwargs", "max_new_tokens=-1")
    wanted.append(("ours", "llava_hf_replay", given, TASK, *broken))
    policy = f"pretrained={tiny_pairs['internvl'].policy},replay_method=none"
    wanted.append(("ours", "internvl_hf_replay", policy, TASK, *broken))
    wanted.append(("ours", "internvl_hf_replay", f"{policy},maxpatches=3", TASK, *LIMIT))
    return several_lmms_evals(wanted)


@pytest.mark.parametrize("number", range(len(CLASSES)), ids=["-".join(c) for c in CLASSES])
def test_without_replay_answers_are_the_stock_classes(ended, number):
    stock, ours = ended[2 * number : 2 * number + 2]
    assert (stock.code, ours.code) == (0, 0), ours.output[-3000:]
    assert ours.answers == stock.answers
    assert len(set(ours.answers.values())) > 1
    inputs = [{d: row["input"] for d, row in run.samples.items()} for run in (stock, ours)]
    assert inputs[0] == inputs[1]
    assert ours.results["replay"]["totals"]["outcomes"] == {"off": 4}


@pytest.mark.parametrize("number", [12, 13, 14], ids=["qwen3_vl", "internvl", "llava_simple"])
def test_replay_is_applied_to_every_sample(ended, number):
    run = ended[number]
    assert run.code == 0, run.output[-3000:]
    assert {record["outcome"] for record in run.records} == {"applied"}
    assert all(record["loss_after"] < record["loss_before"] for record in run.records)


def test_records_belong_to_their_documents(ended):
    """The tokens of each document's pictures: 32 pixels a side, the fourth has two."""
    records = {document: row["replay"] for document, row in ended[12].samples.items()}
    assert {d: r[0]["visual_tokens"] for d, r in records.items()} == {0: 12, 1: 8, 2: 10, 3: 18}


@pytest.mark.parametrize("number", [15, 16], ids=["llava", "internvl"])
def test_what_the_class_would_swallow_ends_the_evaluation(ended, number):
    """Upstream answers "", scores it 0 and ends with exit code 0; of a task's settings, too."""
    run = ended[number]
    assert run.code == 2
    assert not list(run.folder.rglob("*_results.json"))
    assert "max_new_tokens=-1 is not allowed" in run.output


def test_an_argument_that_the_class_would_ignore_is_refused(ended):
    assert ended[17].code == 2
    assert "maxpatches is not a model argument of internvl_hf; did you mean max_patches?" in (
        ended[17].output
    )
