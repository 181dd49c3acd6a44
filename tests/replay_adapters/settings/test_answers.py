"""The final answer in a model's text, with a person's verdict for each."""

import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_adapters.settings.answers import AnswerFormat, Takes, final_answer
from replay_adapters.settings.pairs import pair_names, read_pair

TAGGED = AnswerFormat(tag="answer", boxed=True)
BOXED = AnswerFormat(boxed=True)

# What a policy that tags its answer wrote, and what a person takes for its answer.
WRITTEN = {
    "<think>not A</think><answer>B</answer>": "B",
    "<think>not A</think>\n\n<answer>\nB\n</answer>\n": "B",
    r"<think>x</think><answer> The answer is $\boxed{3.5}$ </answer>": "3.5",
    r"<think>x</think><answer> The answer is $\\boxed{2}$ </answer>": "2",
    r"<answer>$\boxed{\frac{7}{2}}$</answer>": r"\frac{7}{2}",
    r"<answer>\boxed{\text{B}}</answer>": "B",
    "<answer>12 cm</answer>": "12 cm",
    "<answer>**B**</answer>": "B",
    "<answer>Final answer: B</answer>": "B",
    "<answer>A red car</answer>": "A red car",
    "<answer>A</answer> no: <answer>B</answer>": "B",
    "<think>a draft <answer>A</answer></think><answer>B</answer>": "B",
    "<think>never closed <answer>B</answer>": "B",
    "<think>x</think><answer>B": "B",  # decoding stopped at the closing tag
    r"<think>x</think> so \boxed{B}": "B",
    "<think>x</think>B": "B",
    "B": "B",
    "It shows 42 apples.": "It shows 42 apples.",
    # No answer.
    "": "",
    "<answer></answer>": "",
    "<think>x</think><answer>": "",
    "<think>it may be B": "",
    r"<think>perhaps \boxed{B}": "",
    "<think>an <answer>A</answer> is asked for, and the option B": "",
    "<think>x</think>": "",
    r"<think>x</think><answer>\boxed{3": "",
    '<think>x</think><tool_call>{"name": "image_zoom_in_tool"}</tool_call>': "",
    '<tool_call>{"name": "B"': "",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_the_answer_is_what_a_person_reads(text):
    assert final_answer(text, TAGGED) == WRITTEN[text]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"5 of 7, so \boxed{5}, or rather \boxed{\dfrac{5}{7}}.", r"\dfrac{5}{7}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"the set is \boxed{\frac{1}{2", ""),
        ("Neither A nor C fits. The answer is B.", "Neither A nor C fits. The answer is B."),
    ],
)
def test_a_box_is_read_to_its_own_end(text, answer):
    assert final_answer(text, BOXED) == answer


def test_an_unmarked_text_that_was_cut_holds_no_answer():
    assert final_answer("Neither A nor", BOXED, cut=True) == ""
    assert final_answer(r"\boxed{B} because", BOXED, cut=True) == "B"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(("B", "B"), ("b", "B"), ("(B)", "B"), ("(b)", "B"), ("[B]", "B"), ("B.", "B")),
        *(("B. red", "B"), ("B) red", "B"), ("B: red", "B"), ("(B) red", "B"), ("Option B", "B")),
        *(("The answer is (B).", "B"), ("A red car", "A red car"), ("a, b", "a, b")),
        *(("3.5", "3.5"), ("Blue", "Blue"), ("BC", "BC")),
    ],
)
def test_a_scorer_of_letters_is_given_the_letter_that_is_named(answer, letter):
    assert final_answer(f"<answer>{answer}</answer>", TAGGED, "letter") == letter
    assert final_answer(answer, TAGGED, "letter") == letter


# What a policy wrote without its marks, and the letter that a person takes it to name.
UNMARKED = {
    "The answer is B.": "B",
    "The answer is **B**.": "B",
    "**Answer:** B": "B",
    "### Answer\nB": "B",
    "The correct option is (B) blue": "B",
    "The answer is C because A is wrong": "C",
    "The answer is B. C is possible, too.": "B",
    "B because it is blue": "B",
    "B. The car is blue.": "B",
    "I think it is B": "B",
    "A is red, C is green. So it is B.": "B",
    "Option A: red. Option B: blue. I choose B.": "B",
    r"The final answer is \(B\).": "B",
    "Neither A nor C fits.": None,
    "It is not B.": None,
    "A or B": None,
    "B, C": None,
    "A car is parked.": None,
    "I cannot tell.": None,
}


@pytest.mark.parametrize("text", UNMARKED)
def test_a_sentence_is_read_for_the_only_option_that_it_names(text):
    letter = UNMARKED[text]
    assert final_answer(text, TAGGED, "letter") == (letter or text)
    assert final_answer(text, BOXED, "option") == (f"({letter})" if letter else text)
    assert final_answer(text, TAGGED, "boxed") == (rf"\boxed{{{letter}}}" if letter else text)


def test_the_usual_marks_count_where_a_pairs_own_are_missing():
    assert final_answer("<think>A</think><answer>(B) blue</answer>", BOXED) == "(B) blue"
    assert final_answer(r"not <answer>A</answer>, so \boxed{B}", BOXED) == "B"
    own = AnswerFormat(tag="final")
    assert final_answer(r"<final>A</final> <answer>\boxed{B}</answer>", own) == "A"
    assert final_answer(r"<answer>\boxed{B}</answer>", own) == "B"


@pytest.mark.parametrize(
    ("answer", "boxed"),
    [
        *(("7/2", "7/2"), ("3.5", "3.5"), ("12 cm", "12 cm"), ("$5", "$5"), ("(B) red", "B")),
        *((r"-\dfrac{7}{2}", r"$-\dfrac{7}{2}$"), (r"\$5", r"$\$5$"), ("10^{3}", "$10^{3}$")),
        *((r"12\text{ cm}", r"$12\text{ cm}$"), (r"\text{B}", "B"), (r"2\sqrt{3}", r"2\sqrt{3}")),
        *((r"\(\frac{1}{2}\)", r"$\frac{1}{2}$"), (r"\frac{\pi}{2}", r"\frac{\pi}{2}")),
    ],
)
def test_a_scorer_of_boxes_is_given_numbers_in_latex_between_dollars(answer, boxed):
    assert final_answer(f"<answer>{answer}</answer>", TAGGED, "boxed") == rf"\boxed{{{boxed}}}"


def test_a_scorer_of_boxes_is_given_the_only_number_of_a_sentence():
    assert final_answer("It is 7/2.", TAGGED, "boxed") == r"\boxed{7/2}"
    assert final_answer("It is 7/2 or 4.", TAGGED, "boxed") == "It is 7/2 or 4."
    assert final_answer("2 and 3 are 5. So 12 cm^2.", TAGGED, "boxed") == r"\boxed{12}"
    assert final_answer("<think>7/2", TAGGED, "boxed") == ""
    assert final_answer("It is 7/2.", TAGGED, "letter") == "It is 7/2."


def test_a_scorer_of_options_is_given_words_in_a_sentence():
    given = final_answer("<answer>a red car</answer>", TAGGED, "option")
    assert given == "the answer to this question is a red car"
    assert len(given.split()) > 5  # as those scorers want it
    assert final_answer("<think>a red car", TAGGED, "option") == ""


@pytest.mark.parametrize(
    "again",
    [
        "<answer>",
        "answer is ",
        "\\boxed{",
        "\\text{",
        "**",
        "$",
        "(A",
        "B, ",
        "1,",
        ". ",
        "so, the ",
    ],
)
def test_what_is_written_over_and_over_is_read_in_time(again):
    """A model that repeats itself up to its limit of tokens."""
    for takes in get_args(Takes):
        began = time.monotonic()
        final_answer(again * 50_000, TAGGED, takes)
        assert time.monotonic() - began < 5


def test_a_pattern_of_ones_own_is_matched_the_last_time():
    marks = AnswerFormat(pattern=r"ANSWER: (.*?)\n")
    assert final_answer("ANSWER: A\nno\nANSWER: B\n", marks) == "B"


def test_a_pattern_that_runs_away_is_given_up():
    began = time.monotonic()
    text = "a" * 40 + "!"
    assert final_answer(text, AnswerFormat(pattern=r"((?:a|a)*)*b")) in ("", text)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "a"}, "0 groups"),
        ({"pattern": "(a)(b)"}, "2 groups"),
        ({"tag": "<b>"}, "tag"),
        ({"tags": "b"}, "tags"),
    ],
)
def test_marks_that_cannot_be_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        AnswerFormat(**fields)


_PIECES = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "<tool_call>", "B", " "]


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_whatever_is_written_an_answer_is_a_part_of_it(text):
    for takes in ("text", "letter"):
        found = final_answer(text, TAGGED, takes)
        assert found.lower() in text.lower()
    assert final_answer("<think>" + text.replace("<", "").replace("\\", ""), TAGGED) == ""


def test_pairs_whose_prompt_asks_for_marks_say_so():
    for name in (each for each in pair_names() if not each.startswith("demo")):
        protocol = read_pair(name).protocol
        prompt = "".join(
            filter(None, (protocol.system_prompt, protocol.question_template, protocol.user_suffix))
        )
        assert (protocol.answer.tag == "answer") == ("<answer>" in prompt), name
        assert protocol.answer.boxed >= ("boxed" in prompt), name
