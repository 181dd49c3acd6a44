"""The conversation as a state machine, against the published strings and hostile texts."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from replay_adapters.agents.boxes import Limits
from replay_adapters.agents.conversation import Conversation, Messages, next_messages
from replay_adapters.settings.pairs import Protocol, read_pair
from tests.replay_adapters.agents.test_tool_calls import box, called, hostile, nothing_runs

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
PROTOCOL = read_pair("deepeyes_7b").protocol
LIMITS = Limits(3136, 12845056)
IMAGE = Image.linear_gradient("L").resize((560, 280)).convert("RGB")
ZOOM = "<think>Look.</think>" + box("[28, 56, 140, 140]")

__all__ = ["nothing_runs"]


def opened(**how) -> Conversation:
    return Conversation.open("How many?", PROTOCOL, LIMITS, **how)


def wire(messages: Messages) -> str:
    """Return messages as one text, with <image> where a picture stands."""
    text = ""
    for message in messages:
        parts = [part.get("text", "<image>") for part in message["content"]]
        text += f"[{message['role']}]{''.join(parts)}"
    return text


def test_the_protocol_is_the_published_one():
    tools = PROTOCOL.tools
    assert PROTOCOL.system_prompt == PUBLISHED["deepeyes_system"]
    assert PROTOCOL.user_suffix == PUBLISHED["deepeyes_user"]
    assert list(tools.response) == PUBLISHED["deepeyes_tool_response_turn"]
    assert tools.choice_question == PUBLISHED["deepeyes_hrbench_question"]
    assert tools.question == PUBLISHED["deepeyes_visualprobe_question"]
    assert (tools.max_turns, tools.stop, tools.min_crop_pixels) == (11, "</tool_call>", 4 * 28 * 28)
    assert tools.max_crop_pixels == 16384 * 28 * 28


def test_three_turns_are_the_published_strings():
    question = PUBLISHED["deepeyes_hrbench_question"].format(
        question="How many?", options="\nA. one\nB. two\n"
    )
    response = "".join(PUBLISHED["deepeyes_tool_response_turn"])
    first = f"[system]{PUBLISHED['deepeyes_system']}[user]<image>{question}"
    first += PUBLISHED["deepeyes_user"]
    talk = opened(options={"A": "one", "B": "two"})
    assert wire(talk.messages(IMAGE)) == first
    second = f"{first}[assistant]{ZOOM}[user]{response}"
    talk = talk.after(ZOOM, IMAGE.size)
    assert wire(talk.messages(IMAGE)) == second
    refused = talk.after(box("[9, 9, 1, 1]"), IMAGE.size)
    told = response.replace("<image>", refused.turns[-1].told)
    said = f"{second}[assistant]{box('[9, 9, 1, 1]')}[user]{told}"
    assert wire(refused.messages(IMAGE)) == said


def test_braces_in_a_question_or_an_option_stay_as_they_are():
    talk = Conversation.open("{options} {0}?", PROTOCOL, LIMITS, {"A": "{question}"})
    assert talk.question.startswith("Question: {options} {0}?\nOptions: \nA. {question}\n\n")


def test_a_call_that_decoding_stopped_before_its_end_is_closed_again():
    cut = ZOOM.removesuffix("</tool_call>")
    talk = opened().after(cut, IMAGE.size)
    assert talk.messages(IMAGE)[2]["content"][0]["text"] == ZOOM


def test_the_crop_is_the_original_s_and_the_picture_is_shown_in_the_run_s_pixels():
    talk = Conversation.open("?", PROTOCOL, Limits(3136, 280 * 140)).after(
        box("[28, 28, 84, 56]"), IMAGE.size
    )
    picture = talk.messages(IMAGE)[1]["content"][0]["url"]
    assert picture.size == (280, 140) == talk.shown(IMAGE.size)
    turn = talk.turns[0]
    assert (turn.crop, turn.size) == ((56, 56, 168, 112), (112, 56))
    crop = talk.messages(IMAGE)[3]["content"][1]["url"]
    assert crop.tobytes() == IMAGE.crop((56, 56, 168, 112)).tobytes()


@pytest.mark.parametrize(
    "text", ["<answer>B</answer>", "No call.", "", f"{ZOOM}<answer>B</answer>"]
)
def test_it_ends_with_an_answer_or_without_a_call(text):
    talk = opened().after(text, IMAGE.size)
    assert talk.ended
    assert talk.turns[0].box is None
    with pytest.raises(ValueError, match="has ended after 1 turns"):
        talk.after(text, IMAGE.size)


@pytest.mark.parametrize("text", [ZOOM, called("{"), box("[NaN, 1, 2, 3]")])
def test_it_ends_with_the_eleventh_text(text):
    talk = opened()
    for _ in range(10):
        talk = talk.after(text, IMAGE.size)
        assert not talk.ended
    assert talk.after(text, IMAGE.size).ended


def test_of_several_calls_the_first_is_shown_and_the_model_is_told():
    talk = opened().after(ZOOM + box("[1, 2, 3, 4]"), IMAGE.size)
    kinds = [part["type"] for part in talk.messages(IMAGE)[-1]["content"]]
    assert kinds == ["text", "image", "text", "text", "text"]
    assert "first of 2 tool calls" in talk.turns[0].told


def test_a_spelt_out_picture_token_is_no_picture_in_the_next_prompt():
    talk = opened().after(f"<|image_pad|><|im_end|>{ZOOM}", IMAGE.size)
    assert "<|" not in talk.messages(IMAGE)[2]["content"][0]["text"]


def test_a_protocol_without_a_tool_is_refused():
    with pytest.raises(ValueError, match="needs a protocol with `tools`"):
        Conversation.open("?", Protocol(), LIMITS)


def test_the_rounds_of_lmms_eval_are_the_conversation_s():
    looks = []

    def image():
        looks.append(1)
        return IMAGE

    first = next_messages(opened(), image)
    assert isinstance(first, Messages)
    assert first == opened().messages(IMAGE) or wire(first) == wire(opened().messages(IMAGE))
    messages, terminal, outputs, talk = next_messages(opened(), image, [ZOOM])
    assert not terminal
    assert wire(messages) == wire(opened().after(ZOOM, IMAGE.size).messages(IMAGE))
    # Asked again about the same texts, with what it gave before, it says the same.
    again = next_messages(opened(), image, outputs, talk)
    assert wire(again[0]) == wire(messages)
    seen = len(looks)
    done = next_messages(opened(), image, [ZOOM, "<answer>B</answer>"], talk)
    assert done[:3] == (None, True, [ZOOM, "<answer>B</answer>"])
    assert [turn.text for turn in done[3].turns] == done[2]
    assert len(looks) == seen  # an end needs no picture


_counted = []


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(st.lists(hostile, min_size=12, max_size=12), st.integers(1, 3000), st.integers(1, 3000))
def _any_conversation(texts, width, height):
    limits = Limits(3136, 50176, "mapped" if width % 2 else "published")
    talk = Conversation.open("?", PROTOCOL, limits)
    size = (width, height)
    if max(size) > 20 * min(size):
        return
    image = Image.new("RGB", size)
    while not talk.ended:
        talk = talk.after(texts[len(talk.turns)], size)
        _counted.append(1)
        turn = talk.turns[-1]
        if turn.crop is not None:
            left, top, right, bottom = turn.crop
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert turn.size[0] * turn.size[1] <= PROTOCOL.tools.max_crop_pixels
        elif not talk.ended:
            assert turn.told
    assert len(talk.turns) <= 11
    if len(talk.turns) > 1 and len(_counted) % 7 == 0:
        before = Conversation.open("?", PROTOCOL, limits)
        for turn in talk.turns[:-1]:
            before = before.after(turn.text, size)
        wire(before.messages(image)).encode()


def test_hostile_conversations_end_and_nothing_runs(nothing_runs):
    _any_conversation()
    assert len(_counted) > 1000
