"""Arms answer for real: a tiny pair on a bench without a harness."""

import json

import pytest

from replay_core import Steered
from replay_core.answer import answer
from replay_core.studies import answers as answering
from replay_core.studies.answers import run_arms
from replay_core.studies.arms import Arm, baseline
from tests.replay_core.helpers import greedy, stable
from tests.replay_core.studies.bench import Bench

CONFIG = stable(layers=(0, 2), steps=2)
REPLAY = Arm("replay", CONFIG)
SAMPLED = {"temperature": 1.0}


class Greedy(Bench):
    """A bench whose prompts come with the options of a greedy answer."""

    def prompts(self, documents):
        return [
            type(one)(one.inputs, greedy(), one.documents) for one in super().prompts(documents)
        ]


@pytest.fixture
def bench(load):
    return Greedy(load(), CONFIG, 3, batch_size=2)


def test_answers_are_those_of_the_core_with_their_records(bench, tmp_path):
    arms = [baseline(CONFIG), REPLAY, Arm("base", CONFIG.changed(method="base"))]
    made = run_arms(bench, tmp_path, arms, [0, 1, 2])
    assert [(one.arm, one.document) for one in made] == [
        (arm.name, document) for arm in arms for document in (0, 1, 2)
    ]
    for one, arm in zip(made, [arm for arm in arms for _ in range(3)], strict=True):
        steered, seeds = Steered(bench.pair, arm.config), [bench.seed(one.document)]
        expected = answer(steered, bench.inputs(one.document), greedy(), seeds=seeds)
        assert one.text == " ".join(map(str, expected.new[0].tolist()))
        (record,) = expected.records
        assert one.record.model_copy(update={"seconds": record.seconds}) == record
        assert one.seconds > 0
        assert len(one.losses) == (3 if arm is REPLAY else 0)
    assert made[3].losses[0] == pytest.approx(made[3].record.loss_before, rel=1e-4)


def test_one_x_serves_all_samples_of_a_document_and_is_paid_for_once(bench, tmp_path, monkeypatch):
    descents = []
    optimise = Steered.optimise
    monkeypatch.setattr(
        Steered, "optimise", lambda *args, **how: descents.append(1) or optimise(*args, **how)
    )
    made = run_arms(bench, tmp_path, [REPLAY], [0], repeats=3, sampling=SAMPLED)
    assert len(descents) == 1
    assert [one.repeat for one in made] == [0, 1, 2]
    assert [one.record.seconds.loop > 0 for one in made] == [True, False, False]
    assert len({one.record.loss_after for one in made}) == 1
    assert len({one.text for one in made}) > 1
    assert [one.record.seed for one in made] == [bench.seed(0, repeat) for repeat in range(3)]


def test_a_vote_costs_all_its_answers_and_is_scored_once(bench, tmp_path, monkeypatch):
    voting = Arm("3 votes", CONFIG.changed(method="none"), "votes", 3)
    bench.right = ("the winner",)
    monkeypatch.setattr(
        answering, "majority", lambda texts: "the winner" if len(texts) == 3 else ""
    )
    (one,) = run_arms(bench, tmp_path, [voting], [1])
    assert (one.text, one.correct, one.repeat) == ("the winner", 1.0, 0)
    monkeypatch.undo()
    sampled = run_arms(bench, tmp_path, [baseline(CONFIG)], [1], repeats=3, sampling=SAMPLED)
    assert one.seconds > max(other.seconds for other in sampled) * 0.5
    assert one.record.seconds.base == one.record.seconds.loop == 0


def test_a_shuffled_base_sees_the_next_documents_picture(bench, tmp_path):
    shuffled = Arm("shuffled base", CONFIG, "shuffled")
    (inputs,) = bench.loaded.singles("one_image")
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    bench._inputs = [inputs, other]
    made = run_arms(bench, tmp_path, [shuffled], [0, 1])
    for one, mine, lent in zip(made, (inputs, other), (other, inputs), strict=True):
        steered, seeds = Steered(bench.pair, CONFIG), [bench.seed(one.document)]
        targets = steered.targets(lent, seeds=seeds)
        (sample,) = steered.optimise(mine, targets=targets, seeds=seeds).samples
        assert one.record.loss_before == pytest.approx(sample.loss_before, rel=1e-3)
        (own,) = steered.optimise(mine, seeds=seeds).samples
        assert one.record.loss_before != pytest.approx(own.loss_before, rel=0.05)


def test_the_policy_paired_with_itself_has_nothing_to_repair(bench, tmp_path):
    (one,) = run_arms(bench, tmp_path, [Arm("self-pair", CONFIG, "self_pair")], [0])
    assert one.record.outcome.value == "no_drift"


def test_kept_answers_are_read_again_as_they_were(bench, tmp_path, monkeypatch):
    first = run_arms(bench, tmp_path, [REPLAY], [0, 1])
    monkeypatch.setattr(answering, "Answerer", None)  # nobody is asked
    renamed = Arm("under another name", CONFIG)
    again = run_arms(bench, tmp_path, [renamed], [0, 1])
    assert [one.model_copy(update={"arm": "replay"}) for one in again] == first
    assert [one.arm for one in again] == ["under another name"] * 2


def test_rows_of_an_earlier_form_are_measured_again(bench, tmp_path, monkeypatch):
    """Rows once had no record; the file that they stand in is left alone."""
    monkeypatch.setattr(answering, "_FORM", 1)
    run_arms(bench, tmp_path, [REPLAY], [0])
    (old,) = tmp_path.glob("answers.*.jsonl")
    row = json.loads(old.read_text())
    old.write_text(json.dumps({key: row[key] for key in row if key != "record"}) + "\n")
    kept = old.read_bytes()
    monkeypatch.undo()
    (one,) = run_arms(bench, tmp_path, [REPLAY], [0])
    assert one.record.outcome.value == "applied"
    assert old.read_bytes() == kept
    assert len([*tmp_path.glob("answers.*.jsonl")]) == 2


def test_what_depended_on_the_moment_is_measured_again(bench, tmp_path):
    run_arms(bench, tmp_path, [REPLAY], [0])
    (file,) = tmp_path.glob("answers.*.jsonl")
    row = json.loads(file.read_text())
    row["record"] |= {"outcome": "out_of_memory", "loss_after": None}
    file.write_text(json.dumps(row) + "\n")
    (one,) = run_arms(bench, tmp_path, [REPLAY], [0])
    assert one.record.outcome.value == "applied"


def test_prompts_that_change_between_arms_are_refused(bench, tmp_path, monkeypatch):
    names = iter("ab")
    monkeypatch.setattr(answering, "digests", lambda *args: [next(names)])
    with pytest.raises(RuntimeError, match="arm replay got another prompt for document 0 than"):
        run_arms(bench, tmp_path, [baseline(CONFIG), REPLAY], [0])
