"""The classes in this process: arguments, what they decode, and both harnesses side by side."""

import inspect
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from replay_adapters.session.session import Session, opened
from replay_adapters.vlmevalkit.arguments import CLASS_ARGUMENTS, CLASSES
from replay_adapters.vlmevalkit.demo import demo_documents
from replay_core import Steered
from tests.replay_adapters.vlmevalkit.conftest import REPLAY, SMALL
from tests.support import tiny


@pytest.mark.parametrize("name", CLASSES)
def test_the_arguments_are_those_of_the_harness_class(harness, name):
    import vlmeval.vlm

    stock = getattr(vlmeval.vlm, CLASSES[name][0])
    taken = set(inspect.signature(stock.__init__).parameters)
    left = {"self", "model_path", "kwargs", "use_audio_in_video"}
    # These two are taken from the class's kwargs.
    assert set(CLASS_ARGUMENTS[name]) == (taken - left) | {"fps", "nframe"}
    source = inspect.getsource(stock.__init__)
    for fact in ("kwargs.pop('fps'", "kwargs.pop('nframe'", "gpu_mems = get_gpu_memory()"):
        assert fact in source, f"upstream changed {stock.__name__}: no {fact!r}"
    assert issubclass(getattr(vlmeval.vlm, name), stock)


@pytest.fixture
def message(tmp_path):
    path = tmp_path / "picture.png"
    tiny.pictures(3)[0].save(path)
    return [{"type": "image", "value": str(path)}, {"type": "text", "value": "What is it?"}]


@pytest.fixture
def build(harness, tiny_model):
    import vlmeval.vlm

    def built(**options):
        entry = tiny_model(**options)
        return getattr(vlmeval.vlm, entry.pop("class"))(**entry)

    return built


class Watch:
    """What reaches the two halves of replay."""

    def __init__(self, monkeypatch) -> None:
        self.results, self.used, self.prompts, self.generations = [], [], [], []
        optimise, decode = Steered.optimise, Steered.decode

        def watched(steered, inputs, **more):
            self.results.append(optimise(steered, inputs, **more))
            return self.results[-1]

        def decoded(steered, inputs, result, **generation):
            self.used.append(result)
            self.prompts.append(inputs["input_ids"])
            self.generations.append(generation)
            return decode(steered, inputs, result, **generation)

        monkeypatch.setattr(Steered, "optimise", watched)
        monkeypatch.setattr(Steered, "decode", decoded)


def test_a_model_answers_outside_a_run_and_x_is_optimised_once_per_item(
    build, message, monkeypatch
):
    watch = Watch(monkeypatch)
    model = build(**REPLAY, samples=3, temperature=1.0)
    first = model.generate(message, dataset="mine")
    assert isinstance(first, str)
    assert len(watch.results) == 1
    assert len(watch.generations) == 3
    assert watch.results[0].samples[0].outcome == "applied"
    # Other inputs are not served the x of these; the same ones are not kept beyond their item.
    model.generate([message[0], {"type": "text", "value": "What else?"}], dataset="mine")
    assert len(watch.results) == 2
    for turn in (3, 4):
        assert model.generate(message, dataset="mine") == first
        assert len(watch.results) == turn


def test_other_inputs_within_one_item_get_an_x_of_their_own(build, message, monkeypatch):
    """As where a class samples a video's frames at random."""
    watch = Watch(monkeypatch)
    model = build(**REPLAY, samples=2, temperature=1.0)
    prepare, turns = model._prepare_content, iter([28 * 28 * 4, 28 * 28 * 9])

    def other(content, dataset=None):
        return [{**part, "max_pixels": next(turns)} if part["type"] == "image" else part
                for part in prepare(content, dataset=dataset)]  # fmt: skip

    model._prepare_content = other
    model.generate(message, dataset="mine")
    assert [result.samples[0].visual_tokens for result in watch.results] == [2, 6]


def test_a_temperature_of_0_is_plain_argmax(build, message, monkeypatch):
    watch = Watch(monkeypatch)
    greedy = build(replay_method="none", temperature=0).generate(message, dataset="mine")
    stock = build(replay_method="none").generate(message, dataset="mine")
    assert greedy == stock  # upstream samples among the one most probable token
    assert watch.generations[0]["do_sample"] is False
    assert watch.generations[1]["do_sample"] is True
    assert watch.generations[1]["top_k"] == 1


def test_sampled_tokens_are_those_of_torchs_own_stream_with_the_records_seed(
    build, message, monkeypatch
):
    """So that a run's samples stay what they were before each row had a stream of its own."""
    calls = []
    decode = Steered.decode

    def decoded(steered, inputs, result, **generation):
        ids = decode(steered, inputs, result, **generation)
        calls.append((inputs, generation, ids))
        return ids

    lines = []
    monkeypatch.setattr(Steered, "decode", decoded)
    model = build(replay_method="none", temperature=1.5, samples=5)
    with opened(Session(journal=SimpleNamespace(add=lines.append))):
        model.generate(message, dataset="mine")
    (line,) = lines
    assert len({tuple(ids[0].tolist()) for *_, ids in calls}) > 1
    for record, (inputs, generation, ids) in zip(line["replay"], calls, strict=True):
        torch.manual_seed(record["seed"])
        expected = model.pair.policy.model.generate(**inputs, **generation)
        assert torch.equal(ids, expected)


def test_the_pairs_prompt_reaches_the_tokenizer(build, tiny_pairs, tmp_path, message, monkeypatch):
    watch = Watch(monkeypatch)
    pair = tiny_pairs["qwen2_5_vl"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"policy: {pair.policy}\nbase: {pair.base}\n"
        "protocol: {system_prompt: Think hard., user_suffix: ' In a word.'}\n"
    )
    model = build(replay_method="none", pair=str(file))
    model.generate(message, dataset="mine")
    prompt = model.processor.tokenizer.decode(watch.prompts[0][0])
    assert "<|im_start|>system\nThink hard.<|im_end|>" in prompt
    assert "What is it? In a word.<|im_end|>" in prompt
    assert message[1]["value"] == "What is it?"


def test_qwen3_vl_answers_as_its_stock_class_and_is_replayed(
    harness, tmp_path, message, monkeypatch
):
    import vlmeval.vlm

    from replay_adapters.session.standin import constructor_takes
    from replay_adapters.vlmevalkit.patches import gpu_memory_known

    watch = Watch(monkeypatch)
    pair = tiny.make_pair(tmp_path / "pair", "qwen3_vl")
    given = {"min_pixels": 4096, "max_pixels": 65536, "max_new_tokens": 8, "temperature": 0.5}
    given |= {"use_custom_prompt": False, "top_k": 1}
    ours = {"model_path": str(pair.policy), "replay_base": str(pair.base), **given}
    none = vlmeval.vlm.Qwen3VLChatReplay(replay_method="none", **ours)
    with constructor_takes(none.pair.policy.model), gpu_memory_known(vlmeval.vlm.Qwen3VLChat):
        stock = vlmeval.vlm.Qwen3VLChat(model_path=str(pair.policy), **given)
    assert type(stock.model) is type(none.pair.policy.model)
    assert none.generate(message, dataset="mine") == stock.generate(message, dataset="mine")
    replayed = vlmeval.vlm.Qwen3VLChatReplay(**REPLAY, **ours)
    assert replayed.generate(message, dataset="mine")
    (sample,) = watch.used[-1].samples
    assert sample.outcome == "applied"
    assert sample.visual_tokens > 1


def test_both_harnesses_make_the_same_x_and_the_same_answers(harness, tmp_path, monkeypatch):
    """The embedded pair on the same four items, through each harness's own code."""
    import vlmeval.vlm
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    watch = Watch(monkeypatch)
    settings = "replay_steps=10,replay_select=all"
    evaluated = simple_evaluate(
        model="qwen2_vl_replay",
        model_args=settings,
        tasks=["replay_demo"],
        limit=4,
        batch_size=1,
        device="cpu",
        log_samples=True,
        task_manager=TaskManager("ERROR"),
    )
    samples = evaluated["samples"]["replay_demo"]
    theirs = {sample["doc_id"]: sample["filtered_resps"][0] for sample in samples}
    model = vlmeval.vlm.Qwen2VLChatReplay(
        pair="demo", replay_steps=10, replay_select="all", max_new_tokens=16, temperature=0
    )
    for number, document in enumerate(demo_documents()[:4]):
        path = tmp_path / f"{number}.png"
        document["image"].save(path)
        content = [
            {"type": "image", "value": str(path)},
            {"type": "text", "value": document["question"]},
        ]
        assert model.generate(content, dataset="replay_demo") == theirs[number]
    by_prompt = {}
    for prompt, result in zip(watch.prompts, watch.used, strict=True):
        by_prompt.setdefault(tuple(prompt[0].tolist()), []).append(result)
    assert len(by_prompt) == 4
    for first, second in by_prompt.values():  # the prompts are token for token the same
        assert first.samples[0].outcome == second.samples[0].outcome
        scale = first.delta.norm().item()
        assert torch.allclose(first.delta, second.delta, atol=1e-5 * max(scale, 1e-6), rtol=1e-4)
    assert max(result.delta.norm() for result in watch.used) > 0


@pytest.mark.parametrize("state", ["unreleased", "absent"])
def test_a_policy_without_a_usable_processor_answers_with_its_bases(
    harness, tiny_pairs, tmp_path, message, monkeypatch, state
):
    import vlmeval.vlm

    pair = tiny_pairs["qwen2_5_vl"]
    policy = shutil.copytree(pair.policy, tmp_path / "policy")
    file = policy / "processor_config.json"
    content = json.loads(file.read_text())
    file.unlink()
    if state == "unreleased":
        named = {**content["image_processor"], "image_processor_type": "Qwen2_5_VLImageProcessor"}
        (policy / "preprocessor_config.json").write_text(json.dumps(named))
    else:
        (policy / "tokenizer.json").unlink()
    watch = Watch(monkeypatch)
    given = {**SMALL, **REPLAY, "replay_base": str(pair.base)}
    answers = [
        vlmeval.vlm.Qwen2VLChatReplay(model_path=str(folder), **given).generate(
            message, dataset="x"
        )
        for folder in (pair.policy, policy)
    ]
    assert answers[0] == answers[1]
    assert torch.equal(watch.prompts[0], watch.prompts[1])
    assert torch.equal(watch.used[0].delta, watch.used[1].delta)
