import copy
from types import SimpleNamespace

import pytest

from replay_adapters.settings.answers import AnswerFormat
from replay_adapters.settings.pairs import Protocol
from replay_adapters.settings.protocol import (
    edit_last_text,
    edit_messages,
    edit_question,
    edited_request,
)

QUESTION = [
    {
        "role": "user",
        "content": [{"type": "image", "url": "x"}, {"type": "text", "text": "How many?"}],
    }
]


def test_the_system_prompt_comes_first_and_the_suffix_last():
    protocol = Protocol(system_prompt="Think.", user_suffix="\nBox it.")
    before = copy.deepcopy(QUESTION)
    system, user = edit_messages(QUESTION, protocol)
    assert system == {"role": "system", "content": [{"type": "text", "text": "Think."}]}
    assert user["content"][-1]["text"] == "How many?\nBox it."
    assert user["content"][0] == {"type": "image", "url": "x"}
    assert before == QUESTION


def test_a_system_prompt_of_the_task_is_replaced():
    messages = [{"role": "system", "content": "Old."}, *QUESTION]
    edited = edit_messages(messages, Protocol(system_prompt="New."))
    assert [message["role"] for message in edited] == ["system", "user"]
    assert edited[0]["content"][0]["text"] == "New."
    (user,) = edit_messages(messages, Protocol(user_suffix="!"))  # a pair that has none
    assert user["content"][-1]["text"] == "How many?!"
    assert edit_messages(messages, Protocol(max_pixels=9)) == messages


def test_only_the_last_user_turn_gets_the_suffix():
    turns = [
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Second?"},
    ]
    edited = edit_messages(turns, Protocol(user_suffix=" Box it."))
    assert [turn["content"] for turn in edited] == ["First?", "Yes.", "Second? Box it."]


def edited_arguments(arguments, protocol, **how):
    request = SimpleNamespace(arguments=arguments)
    edited = edited_request(request, protocol, **how)
    assert request.arguments == arguments
    return edited.arguments


def test_decoding_of_the_pair_wins_over_the_task_but_not_over_the_command_line():
    protocol = Protocol(generation={"max_new_tokens": 2048, "temperature": 0})
    task = {"max_new_tokens": 16, "temperature": 1, "until": ["\n"]}
    given = ("How many?", task)
    _, edited = edited_arguments(given, protocol, chat=False, command_line={"temperature"})
    assert edited == {"max_new_tokens": 2048, "temperature": 1, "until": []}


@pytest.mark.parametrize(
    ("protocol", "typed", "until"),
    [
        (Protocol(), (), ["\n\n"]),
        (Protocol(user_suffix="Box it."), (), ["\n\n"]),
        (Protocol(answer=AnswerFormat(boxed=True)), (), []),
        (Protocol(answer=AnswerFormat(boxed=True)), ("until",), ["\n\n"]),
        (Protocol(generation={"until": ["Q:"]}), (), ["Q:"]),
    ],
)
def test_a_tasks_stop_words_do_not_end_an_answer_in_the_pairs_format(protocol, typed, until):
    given = ("How many?", {"until": ["\n\n"]})
    edited = edited_arguments(given, protocol, chat=False, command_line=typed)
    assert edited[1]["until"] == until


def test_chat_and_simple_requests_carry_the_same_edits():
    protocol = Protocol(user_suffix=" Box it.", generation={"max_new_tokens": 9})
    chat = edited_arguments(
        ("How many?", lambda doc: QUESTION, {}, 3, "task", "test"),
        protocol,
        chat=True,
        command_line=(),
    )
    assert chat[1]({})[0]["content"][-1]["text"] == "How many? Box it."
    assert chat[2:] == ({"max_new_tokens": 9}, 3, "task", "test")
    simple = edited_arguments(
        ("How many?", {}, len, 3, "task", "test"), protocol, chat=False, command_line=()
    )
    assert simple == ("How many? Box it.", {"max_new_tokens": 9}, len, 3, "task", "test")


def test_a_question_stands_in_its_template_with_its_suffixes_behind():
    protocol = Protocol(
        question_template="Q: {Question}\nThink of {things}.",
        type_suffixes={"number": " A number.", "letter": " A letter."},
        question_type="letter",
        user_suffix=" Box it.",
    )
    expected = "Q: Why {Question}?\nThink of {things}. A letter. Box it."
    assert edit_question("Why {Question}?", protocol) == expected
    assert edit_question("Why?", Protocol()) == "Why?"
    user = edit_messages(QUESTION, protocol)[-1]
    assert user["content"][-1]["text"] == ("Q: How many?\nThink of {things}. A letter. Box it.")


def test_where_the_class_writes_the_system_prompt_there_is_none_in_the_messages():
    messages = [{"role": "system", "content": "Old."}, *QUESTION]
    edited = edit_messages(messages, Protocol(system_prompt="New."), writes_system_prompt=True)
    assert [message["role"] for message in edited] == ["user"]
    kept = edit_messages(messages, Protocol(), writes_system_prompt=True)
    assert [message["role"] for message in kept] == ["system", "user"]


PICTURES = [{"type": "image", "url": "x"}, {"type": "image", "url": "y"}]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": PICTURES}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [*PICTURES, {"type": "text", "text": ""}]}],
        [{"role": "user", "content": ""}],
        [{"role": "system", "content": "Look."}],
        [{"role": "assistant", "content": [{"type": "text", "text": "Well,"}]}],
        [],
    ],
)
def test_a_prompt_without_a_question_is_left_alone_unless_the_pair_adds_words(turns):
    before = copy.deepcopy(turns)
    assert edit_messages(turns, Protocol()) == before
    edited = edit_messages(turns, Protocol(user_suffix="Box it."))
    assert turns == before
    (user,) = (turn for turn in edited if turn["role"] == "user")
    others = [turn for turn in before if turn["role"] != "user"]
    assert edited == [*others, user]
    words = {"type": "text", "text": "Box it."}
    asked = [turn["content"] for turn in before if turn["role"] == "user"]
    given = asked[-1] if asked else []
    pictures = [part for part in given if part["type"] == "image"]
    assert user["content"] == ("Box it." if given == "" else [*pictures, words])


def test_pictures_alone_are_asked_about_in_the_template():
    protocol = Protocol(system_prompt="Think.", question_template="<{Question}>")
    system, user = edit_messages([{"role": "user", "content": PICTURES}], protocol)
    assert system["content"][0]["text"] == "Think."
    assert user["content"] == [*PICTURES, {"type": "text", "text": "<>"}]


def test_a_harness_that_keeps_its_texts_elsewhere_is_asked_alike():
    parts = [{"type": "text", "value": "Why?"}, {"type": "image", "value": "x"}]
    edit_last_text(parts, Protocol(user_suffix=" Box it."), "value")
    assert parts == [{"type": "text", "value": "Why? Box it."}, {"type": "image", "value": "x"}]
    edit_last_text(pictures := parts[1:], Protocol(user_suffix="Box it."), "value")
    assert pictures[1:] == [{"type": "text", "value": "Box it."}]
