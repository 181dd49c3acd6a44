"""Answers by vLLM against transformers' own, on tiny checkpoints in float32.

Wants vLLM, which has an environment of its own: see "Decode with vLLM" in replay_adapters.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: it has an environment of its own")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from replay_core import Outcome, Pair, ReplayConfig, Steered, UsageError
from replay_core.answer import answer
from replay_core.decoding.engine import Engine, engine_for
from replay_core.decoding.options import EngineOptions
from replay_core.decoding.vllm import VllmDecoder
from replay_core.enduring import Enduring
from replay_core.faults import RunOver
from tests.replay_core.helpers import Loaded, stable
from tests.support import tiny

OPTIONS = EngineOptions(gpu_memory_utilization=0.1, enforce_eager=True, max_model_len=512)
GREEDY = {"max_new_tokens": 16, "do_sample": False}
SAMPLED = {"max_new_tokens": 16, "do_sample": True, "temperature": 1.0, "top_k": 0}
BATCHES = {
    "qwen2_vl": ("two_images", "mixed", "video", "mixed_video"),
    "qwen2_5_vl": ("two_images", "mixed", "video", "mixed_video"),
    "qwen3_vl": ("two_images", "mixed"),
}


@dataclass(frozen=True, repr=False)
class Served:
    """A tiny pair, and its policy in vLLM."""

    loaded: Loaded
    engine: Engine

    @property
    def pair(self) -> Pair:
        return self.loaded.pair

    def by_vllm(self, config: ReplayConfig) -> Steered:
        return Steered(self.pair, config, VllmDecoder(self.engine))

    def by_transformers(self, config: ReplayConfig) -> Steered:
        return Steered(self.pair, config)


@pytest.fixture(scope="module", params=BATCHES)
def served(request, load) -> Iterator[Served]:
    loaded = load(request.param, head_dim=32)
    policy = str(loaded.folders.policy)
    engine = engine_for(policy, policy, "float32", OPTIONS)
    yield Served(loaded, engine)
    engine.close()


@pytest.fixture
def qwen25(served) -> Served:
    if served.loaded.policy.config.model_type != "qwen2_5_vl":
        pytest.skip("one family shows it")
    return served


def answers(steered: Steered, inputs, result=None, **generation) -> torch.Tensor:
    result = steered.optimise(inputs) if result is None else result
    return steered.decode(inputs, result, **(generation or GREEDY))


ARMS = {"none": ReplayConfig(method="none"), "replay": stable()}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_answers_are_those_of_transformers(served, arm, side):
    family = served.loaded.policy.config.model_type
    ours, theirs = served.by_vllm(ARMS[arm]), served.by_transformers(ARMS[arm])
    for name in BATCHES[family]:
        if arm == "none" and side == "right":
            continue  # one model left alone answers what it is given, padded as it is
        inputs = served.loaded.batch(name, side)
        result = theirs.optimise(inputs)
        assert torch.equal(answers(ours, inputs, result), answers(theirs, inputs, result)), name


def test_no_setting_is_served_the_answer_of_another_one(served):
    """vLLM caches by the features' content; a name for the picture would serve the plain answer."""
    strong = stable(step_size=30 * stable().step_size)
    arms = [ReplayConfig(method="none"), stable(), strong]
    inputs = served.loaded.batch("two_images")
    expected = [answers(served.by_transformers(arm), inputs).tolist() for arm in arms]
    assert len({str(one) for one in expected}) > 1  # else nothing could be mixed up
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 1]):
        found = [answers(served.by_vllm(arms[at]), inputs).tolist() for at in order]
        assert found == [expected[at] for at in order]


def test_sampled_answers_follow_from_their_seeds_alone(qwen25):
    steered, batch = qwen25.by_vllm(stable()), qwen25.loaded.batch("mixed")
    first = answer(steered, batch, {**SAMPLED, "num_return_sequences": 8}, seeds=[1, 2, 3])
    texts = [row.tolist() for row in first.new]
    assert len(texts) == 24
    assert len({str(text) for text in texts[:8]}) > 4
    again = answer(steered, batch, {**SAMPLED, "num_return_sequences": 8}, seeds=[1, 2, 3])
    assert [row.tolist() for row in again.new] == texts
    for at, (seed, single) in enumerate(
        zip([1, 2, 3], qwen25.loaded.singles("mixed"), strict=True)
    ):
        alone = answer(steered, single, {**SAMPLED, "num_return_sequences": 8}, seeds=[seed])
        assert [row.tolist() for row in alone.new] == texts[8 * at : 8 * at + 8]
    # One answer of a prompt, asked for by itself with the seed that its record names.
    single = qwen25.loaded.singles("mixed")[2]
    alone = answer(steered, single, SAMPLED, seeds=[first.records[21].seed])
    assert alone.new[0].tolist() == texts[21]


def test_a_stop_text_ends_an_answer_where_it_does_in_transformers(qwen25):
    inputs, tokenizer = qwen25.loaded.batch("mixed"), qwen25.loaded.processor.tokenizer
    plain = answers(qwen25.by_transformers(stable()), inputs)[:, inputs["input_ids"].shape[1] :]
    texts = [tokenizer.decode(token) for token in plain[0, 3:]]
    stop = next(text for text in texts if text.isascii() and text.isprintable() and text.strip())
    how = {**GREEDY, "stop_strings": [stop], "tokenizer": tokenizer, "pad_token_id": 366}
    ours = answer(qwen25.by_vllm(stable()), inputs, how)
    theirs = answer(qwen25.by_transformers(stable()), inputs, how)
    assert torch.equal(ours.new, theirs.new)
    told = [(one.new_tokens, one.finish_reason, one.truncated) for one in ours.records]
    assert told == [(one.new_tokens, one.finish_reason, one.truncated) for one in theirs.records]
    assert told[0][0] < 16


def test_records_name_what_wrote_the_answer(qwen25):
    inputs = qwen25.loaded.batch("one_image")
    (ours,) = answer(qwen25.by_vllm(stable()), inputs, GREEDY).records
    (theirs,) = answer(qwen25.by_transformers(stable()), inputs, GREEDY).records
    assert (ours.decoder, theirs.decoder) == ("vllm 0.32.0", "transformers")
    same = {"loss_after", "new_tokens", "finish_reason", "seed", "outcome"}
    assert ours.model_dump(include=same) == theirs.model_dump(include=same)


def test_a_prompt_that_vllm_refuses_is_that_samples_outcome(qwen25):
    long = "How many circles are in the picture? " * 60
    short = "How many circles?"
    (row,) = tiny.rows("one_image")
    inputs = tiny.make_inputs(
        qwen25.loaded.processor, images=[row.images] * 2, questions=[long, short]
    )
    steered = qwen25.by_vllm(stable())
    made = Enduring(steered).answer(
        inputs,
        GREEDY,
        seeds=[0, 1],
        optimise=lambda part, places: steered.optimise(part, seeds=list(places)),
    )
    assert [record.outcome for record in made.records] == [Outcome.FAILED, Outcome.APPLIED]
    assert "512" in made.records[0].error
    assert made.records[0].decoder == "vllm 0.32.0"
    alone = tiny.make_inputs(qwen25.loaded.processor, images=[row.images], questions=[short])
    theirs = answers(qwen25.by_transformers(stable()), alone)[0, alone["input_ids"].shape[1] :]
    assert made.new[1].tolist() == theirs.tolist()


def test_an_answer_that_the_context_cuts_is_no_answer(qwen25):
    inputs = qwen25.loaded.batch("one_image")
    how = {"max_new_tokens": 600, "do_sample": False, "eos_token_id": 383}
    with pytest.raises(UsageError, match="of 600 tokens, where vLLM's max_model_len ended"):
        answers(qwen25.by_vllm(stable()), inputs, **how)


def test_beams_end_the_run(qwen25):
    with pytest.raises(RunOver, match="num_beams=2 is not possible with decode=vllm"):
        answers(qwen25.by_vllm(stable()), qwen25.loaded.batch("one_image"), num_beams=2)


def test_injection_is_refused(qwen25):
    with pytest.raises(UsageError, match=r"method=inject .* take decode=transformers"):
        qwen25.by_vllm(ReplayConfig(method="inject"))


def test_arms_of_one_policy_share_an_engine(qwen25):
    policy = str(qwen25.loaded.folders.policy)
    assert engine_for(policy, policy, "float32", OPTIONS) is qwen25.engine


def test_a_checkpoint_that_vllm_cannot_start_is_told_in_a_sentence(qwen25):
    policy = str(qwen25.loaded.folders.policy)
    options = OPTIONS.model_copy(update={"max_model_len": 10**6})
    with pytest.raises(UsageError, match=f"vLLM does not start with {policy} "):
        Engine(policy, policy, "float32", options)


def test_a_closed_engine_answers_no_more(served):
    """The last test of each engine."""
    served.engine.close()
    with pytest.raises(RunOver, match="closed before it had answered"):
        answers(served.by_vllm(stable()), served.loaded.batch("one_image"))
