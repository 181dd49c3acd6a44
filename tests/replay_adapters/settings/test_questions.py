"""Questions with options, and what kind a question is, in every form that the sets have."""

import pytest

from replay_adapters.settings.pairs import Protocol
from replay_adapters.settings.protocol import QUESTION_TYPE, edit_question, edited_request
from replay_adapters.settings.questions import kind_of, lettered, with_options, without_options
from replay_core import UsageError

PROTOCOL = Protocol(
    question_template="<{Question}>",
    type_suffixes={"multiple choice": " letter", "numerical": " number"},
    question_type="multiple choice",
)


def test_every_option_has_its_letter_once():
    assert with_options("Who?", ["I", "you"]) == "Who?Options:\nA. I\nB. you\n"
    for written in (
        ["A. I", "B. you"],
        ["(A) I", "(B) you"],
        ["A) I", "B) you"],
        ["A: I", "B: you"],
    ):
        assert lettered(written) == ["A. I", "B. you"]
    # These letters are words of the options.
    assert lettered(["B. Franklin", "A. Lincoln"]) == ["A. B. Franklin", "B. A. Lincoln"]


@pytest.mark.parametrize("first", ["(A) I", "A. I", "A: I"])
def test_a_question_that_holds_its_options_is_taken_apart(first):
    second = first.replace("A", "B").replace("I", "you")
    assert without_options(f"Who?\n{first}\n{second}\nor me") == (
        "Who?",
        [first, f"{second}\nor me"],
    )
    assert without_options("Who is it?\nA man or a woman?") == ("Who is it?\nA man or a woman?", [])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (("multiple-choice", ["a", "b"], "A"), "multiple choice"),
        (("perception", ["a", "b"], "A"), "multiple choice"),
        (("open", [], "1,024.5"), "numerical"),
        (("open", ["a"], "-3"), "numerical"),
        (("open", [], "a prism"), "free-form"),
    ],
)
def test_the_kind_follows_from_the_sets_type_options_and_answer(given, kind):
    assert kind_of(*given) == kind


def test_a_documents_kind_stands_over_the_protocols():
    assert edit_question("?", PROTOCOL) == "<?> letter"
    assert edit_question("?", PROTOCOL, "numerical") == "<?> number"
    assert edit_question("?", Protocol(user_suffix="!"), "numerical") == "?!"
    with pytest.raises(UsageError, match=f"{QUESTION_TYPE} is .*odd.* multiple choice, numerical"):
        edit_question("?", PROTOCOL, "odd")


@pytest.mark.parametrize("chat", [True, False])
def test_both_kinds_of_classes_are_asked_by_the_documents_kind(chat):
    class Request:
        arguments = ("?", {}, None, 1, "task", "test")

    rows = [{}, {QUESTION_TYPE: "numerical"}]
    if chat:
        turn = [{"role": "user", "content": "?"}]
        Request.arguments = ("?", lambda doc: turn, {}, 1, "task", "test")
    documents = {"task": {"test": rows}}
    how = {"chat": chat, "command_line": (), "documents": documents}
    edited = edited_request(Request(), PROTOCOL, **how)
    asked = edited.arguments[1](rows[1])[0]["content"] if chat else edited.arguments[0]
    assert asked == "<?> number"
