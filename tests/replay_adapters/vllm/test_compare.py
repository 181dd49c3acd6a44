"""Both arms of a comparison have one decoder."""

import pytest

from replay_adapters.runs.compare import compare_runs
from replay_core import UsageError
from tests.support.lmms_eval_files import write_run

BY_VLLM = {"decoder": "vllm 0.32.0", "engine": {"max_num_seqs": 64}}


def run(folder, method, **summary):
    rows = [{"accuracy": float(number % 3 > 0)} for number in range(30)]
    return write_run(folder, rows, summary={"config": {"method": method}, **summary})


def test_a_mixture_of_decoders_is_refused(tmp_path):
    a, b = run(tmp_path / "a", "none"), run(tmp_path / "b", "replay", **BY_VLLM)
    told = r"decoding differs \(decoder is transformers in one and vllm 0\.32\.0 in the other\)"
    with pytest.raises(UsageError, match=told):
        compare_runs(a, b)


def test_another_version_of_vllm_is_refused(tmp_path):
    later = {**BY_VLLM, "decoder": "vllm 0.33.0"}
    a, b = run(tmp_path / "a", "none", **BY_VLLM), run(tmp_path / "b", "replay", **later)
    with pytest.raises(UsageError, match=r"decoder is vllm 0\.32\.0 in one and vllm 0\.33\.0"):
        compare_runs(a, b)


def test_other_settings_of_the_engine_are_refused(tmp_path):
    other = {**BY_VLLM, "engine": {"max_num_seqs": 64, "kv_cache_dtype": "fp8"}}
    a, b = run(tmp_path / "a", "none", **BY_VLLM), run(tmp_path / "b", "replay", **other)
    with pytest.raises(UsageError, match=r"decoding differs \(engine is"):
        compare_runs(a, b)


def test_arms_by_one_decoder_are_compared(tmp_path):
    a, b = run(tmp_path / "a", "none", **BY_VLLM), run(tmp_path / "b", "replay", **BY_VLLM)
    (found,) = compare_runs(a, b)
    assert len(found.a.items) == 30
