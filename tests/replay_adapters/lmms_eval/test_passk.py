"""Several sampled answers per document: one descent, all answers kept, the same in any batch."""

import pytest

from tests.replay_adapters.conftest import REPLAY

TASK = "replay_demo_passk"


@pytest.fixture(scope="module")
def ended(several_lmms_evals, tiny_pairs):
    """The embedded pair twice, in batches of 2 and of 3; then a plain task asked three times."""
    runs = [
        ("ours", "qwen2_vl_replay", "replay_steps=3", TASK, "--limit", "3", "--batch_size", size)
        for size in ("2", "2", "3")
    ]
    pair = tiny_pairs["qwen2_vl"]
    given = f"pretrained={pair.policy},replay_base={pair.base},{REPLAY}"
    more = ("--limit", "2", "--num_samples", "3", "--gen_kwargs", "temperature=1")
    runs.append(("ours", "qwen2_vl_replay", given, "replay_test_pictures", *more))
    return several_lmms_evals(runs)


def test_all_answers_are_kept_and_scored(ended):
    run = ended[0]
    assert run.code == 0, run.output[-3000:]
    for sample in run.samples.values():
        answers = sample["filtered_resps"]
        assert len(answers) == len(sample["replay"]) == 8
        right = sum(f"<answer> {sample['target']} </answer>" in answer for answer in answers)
        assert sample["pass@8"] == float(right > 0)
        assert sample["pass@1"] == pytest.approx(right / 8)
    results = run.results["results"][TASK]
    assert {f"pass@{k},all" for k in (1, 2, 4, 8)} <= results.keys()


def test_two_runs_give_the_same_answers_whatever_the_batch(ended):
    first, again, other = (run.answers for run in ended[:3])
    assert first == again == other
    assert any(len(set(sample)) > 1 for sample in first.values())


def test_x_is_optimised_once_per_item_and_every_answer_has_a_seed_of_its_own(ended):
    for sample in ended[0].samples.values():
        records = sample["replay"]
        assert [record["seconds"]["loop"] > 0 for record in records] == [True] + 7 * [False]
        assert len({record["loss_after"] for record in records}) == 1
        assert len({record["seed"] for record in records}) == 8


def test_answers_that_a_filter_drops_are_kept_beside_the_records(ended):
    run = ended[3]
    assert run.code == 0, run.output[-3000:]
    for sample in run.samples.values():
        (answers,) = sample["replay_answers"]
        assert len(answers) == len(sample["replay"]) == 3
        assert answers[0] == sample["filtered_resps"]
        assert len(set(answers)) > 1
