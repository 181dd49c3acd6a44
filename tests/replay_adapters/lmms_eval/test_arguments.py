"""What lmms-eval's own flags may hold, and which of their settings its classes drop."""

import inspect

import pytest
from lmms_eval.models.chat.internvl_hf import InternVLHf
from lmms_eval.models.chat.llava_hf import LlavaHf

from replay_adapters.lmms_eval.arguments import check_arguments, parse_generation, unread
from replay_core import UsageError

SAMPLED = {"do_sample": True, "temperature": 1.0, "top_p": 0.001, "num_beams": 1}
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "num_beams": 1}


@pytest.mark.parametrize("given", ["auto", "auto:4", "0", "-2", "2.5", "four", ""])
def test_a_batch_size_is_a_number(given):
    with pytest.raises(UsageError) as refused:
        check_arguments("qwen2_vl_replay", given, "")
    assert str(refused.value).startswith(f"--batch_size {given} is not allowed")
    assert "(allowed: 1, 2, 3 and so on)" in str(refused.value)


def test_some_classes_answer_one_prompt_at_a_time():
    for kind in (InternVLHf, LlavaHf):
        source = inspect.getsource(kind)
        assert "batch_size_int == 1" in source or "batch_size_per_gpu == 1" in source
    for model in ("internvl_hf_replay", "llava_hf_replay"):
        check_arguments(model, "1", "")
        with pytest.raises(UsageError, match=r"answers one prompt at a time \(allowed: 1\)"):
            check_arguments(model, 2, "")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("temperature", "--gen_kwargs temperature is not a list of name=value pairs"),
        ("temperature=1.0,top_k", "is not a list of name=value pairs"),
        ("temperature='0.5'", "temperature='0.5' is not allowed (allowed: a number from 0"),
        ("top_k=None", "top_k=None is not allowed (allowed: a whole number from 0 on)"),
        ("num_beams=true", "num_beams=true is not allowed"),
        ("max_new_tokens=many", "max_new_tokens=many is not allowed"),
    ],
)
def test_a_setting_that_is_no_number_is_refused(given, told):
    with pytest.raises(UsageError) as refused:
        check_arguments("qwen2_vl_replay", "1", given)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "temperature=1.0,top_k=1",
        "temperature=0,top_k=0,top_p=0",
        "do_sample=True,num_beams=2,max_new_tokens=16",
        'until=["</a>","b"],top_p=0.001',
        "until='a',repetition_penalty=1.1",
    ],
)
def test_all_other_settings_are_upstreams_matter(given):
    check_arguments("qwen2_vl_replay", "4", given)
    check_arguments("qwen2_vl", "auto", "temperature")  # a stock model


@pytest.mark.parametrize(
    ("given", "used", "simple", "dropped"),
    [
        ("temperature=1.0,top_k=1", SAMPLED, True, ["top_k"]),
        ("temperature=1.0,top_k=1", {**SAMPLED, "top_k": 1}, False, []),
        ("temperature=0,top_k=1,top_p=0.5", GREEDY, False, []),
        ("do_sample=True", GREEDY, False, ["do_sample"]),
        ("do_sample=True,temperature=1.0", SAMPLED, False, []),
        ("until=x,num_beams=1", GREEDY, False, ["until"]),
        ("until=x,num_beams=1", GREEDY, True, []),
        ("repetition_penalty=1.3,num_return_sequences=4", SAMPLED, False, "rn"),
    ],
)
def test_settings_that_never_reach_generate_are_known(given, used, simple, dropped):
    found = unread(parse_generation(given), used, simple=simple)
    assert [name[: len(want)] for name, want in zip(found, dropped, strict=True)] == list(dropped)
