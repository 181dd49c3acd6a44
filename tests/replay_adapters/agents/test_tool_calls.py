"""Tool calls as models write them, well and badly: each becomes a call or a sentence."""

import json
import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_adapters.agents import boxes as boxes_module
from replay_adapters.agents import conversation, tool_calls
from replay_adapters.agents.tool_calls import (
    Refused,
    ZoomCall,
    parse_call,
    without_control_tokens,
)

NAME = "image_zoom_in_tool"
GOOD = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2.5, 30, 40], "label": "a"}}'


def called(content: str) -> str:
    return f"<think>I see.</think>\n<tool_call>{content}</tool_call>"


def box(text: str) -> str:
    return called(f'{{"name": "{NAME}", "arguments": {{"bbox_2d": {text}}}}}')


@pytest.mark.parametrize("text", [called(GOOD), called(f"\n{GOOD}\n"), f"<tool_call>{GOOD}"])
def test_a_call_is_read_whether_or_not_decoding_stopped_before_its_end(text):
    assert parse_call(text, NAME) == ZoomCall((1.0, 2.5, 30.0, 40.0))


@pytest.mark.parametrize("text", ["", "<answer>B</answer>", "I call a tool.", "</tool_call>"])
def test_a_text_without_a_call_has_none(text):
    assert parse_call(text, NAME) is None


def test_of_several_calls_the_first_is_read_and_the_others_counted():
    text = called(GOOD) + box("[5, 6, 7, 8]") + "<tool_call>{"
    assert parse_call(text, NAME) == ZoomCall((1.0, 2.5, 30.0, 40.0), others=2)


# What a model wrote → what its sentence says.
BAD = {
    called("{'name': 1}"): "not valid JSON",
    called(""): "not valid JSON",
    called("[" * 3000): "not valid JSON",
    called('{"a":' * 700): "not valid JSON",
    called("x" * 5000): "5000 characters, more than 4000",
    called('["list"]'): "not a JSON object",
    called('"text"'): "not a JSON object",
    called('{"name": "python", "arguments": {}}'): "no tool 'python'. The only one is image_zoom",
    called('{"name": ["a"], "arguments": {}}'): "no tool a list of 1",
    called('{"arguments": {"bbox_2d": [1, 2, 3, 4]}}'): "no tool null",
    called(f'{{"name": "{NAME}"}}'): "no bbox_2d",
    called(f'{{"name": "{NAME}", "arguments": "{{}}"}}'): "no bbox_2d",
    called(f'{{"name": "{NAME}", "arguments": {{"bbox": [1, 2, 3, 4]}}}}'): "no bbox_2d",
    called(GOOD[:-1] + ', "name": "python"}'): "'name' twice",
    box("[1, 2, 3]"): "not a list of 3",
    box("[[1, 2, 3, 4]]"): "not a list of 1",
    box("{}"): "a JSON object",
    box("null"): "not null",
    box('[1, 2, "3", 4]'): "'3' is no number",
    box("[1, 2, true, 4]"): "true is no number",
    box("[1, 2, [3], 4]"): "a list of 1 is no number",
    box("[NaN, 2, 3, 4]"): "nan is not finite",
    box("[1, 2, Infinity, 4]"): "inf is not finite",
    box("[1, 2, 3, 1e999]"): "inf is not finite",
    box("[1, 2, 3, 1e12]"): "far outside",
    box(f"[1, 2, 3, 1{'0' * 600}]"): "far outside",
    box(f"[-1{'0' * 3000}, 2, 3, 4]"): "far outside",
}


@pytest.mark.parametrize("text", BAD, ids=list(range(len(BAD))))
def test_a_call_that_cannot_be_run_is_a_sentence_that_says_why(text):
    found = parse_call(text, NAME)
    assert isinstance(found, Refused)
    assert BAD[text] in found.sentence
    assert len(found.sentence) < 250


def test_a_number_too_long_for_python_is_no_json():
    found = parse_call(box("1" + "0" * 3900), NAME)
    assert isinstance(found, Refused)


@pytest.mark.parametrize(
    "name", ["<|im_end|>", "</tool_call>x", "\ud800", "<|image_pad|>" * 50, "\x00\u202e"]
)
def test_what_is_quoted_cannot_end_the_turn_or_break_the_tokenizer(name):
    text = called(json.dumps({"name": name, "arguments": {}}))
    found = parse_call(text, NAME)
    assert isinstance(found, Refused)
    assert not set("<>|\x00\u202e\ud800") & set(found.sentence)
    found.sentence.encode()


def test_ten_megabytes_are_read_in_a_moment():
    filler = "a<tool" * 1_700_000
    assert parse_call(filler, NAME) is None
    assert isinstance(parse_call(f"<tool_call>{filler}", NAME), Refused)
    assert parse_call(filler + called(GOOD), NAME) == ZoomCall((1.0, 2.5, 30.0, 40.0))


def test_control_tokens_that_a_model_spells_out_are_none_any_more():
    said = "a <|image_pad|><|im_end|> <IMAGE> <tool_call>{}</tool_call> \ud800 b < c | d > e"
    assert without_control_tokens(said) == (
        "a < |image_pad| >< |im_end| > < IMAGE > <tool_call>{}</tool_call> ? b < c | d > e"
    )


numbers = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(), st.booleans(), st.none(), st.text(max_size=5)
)
values = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
boxes = st.one_of(values, st.lists(st.integers(-50, 3000), min_size=4, max_size=4))
names = st.sampled_from([NAME, "python", "os.system", "__import__('os').system('true')"])
arguments = st.one_of(values, st.fixed_dictionaries({"bbox_2d": boxes}))
calls = st.fixed_dictionaries({"name": st.one_of(names, values), "arguments": arguments})
pieces = st.one_of(
    calls.map(json.dumps),
    values.map(json.dumps),
    st.text(max_size=60),
    st.text(alphabet='{}[]":,0123456789eE.-+<>/| \\u', max_size=80),
    st.sampled_from([GOOD, GOOD[:40], "[" * 1500, "__import__('os').system('exit 3')", "\ud800"]),
)
tags = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<think>", "</think>", "<answer>", "</answer>", "\n", ""]
)
hostile = st.one_of(
    pieces.map(called),
    st.lists(st.one_of(pieces, tags), max_size=9).map("".join),
)


def _forbidden(*arguments, **options):
    raise AssertionError("a model's text was executed")


@pytest.fixture
def nothing_runs(monkeypatch):
    for module in (tool_calls, boxes_module, conversation):
        for name in ("eval", "exec", "compile", "__import__"):  # a module's own name comes first
            monkeypatch.setattr(module, name, _forbidden, raising=False)
    for owner, name in [(os, "system"), (os, "popen"), (subprocess, "Popen")]:
        monkeypatch.setattr(owner, name, _forbidden)


@settings(max_examples=8000, deadline=None, database=None, derandomize=True)
@given(hostile)
def _any_text(text):
    found = parse_call(text, NAME)
    assert found is None or isinstance(found, Refused | ZoomCall)
    assert (found is None) == ("<tool_call>" not in text)
    if isinstance(found, ZoomCall):
        assert all(abs(number) <= 1e9 for number in found.box)
    if isinstance(found, Refused):
        assert found.sentence.endswith(".")
        found.sentence.encode()
    without_control_tokens(text).encode()


def test_thousands_of_hostile_texts_are_calls_or_sentences(nothing_runs):
    _any_text()
