"""Questions with options as Video-R1's evaluation writes them, for the sets of either harness."""

import re
from collections.abc import Sequence

MULTIPLE_CHOICE = "multiple choice"
NUMERICAL = "numerical"
FREE_FORM = "free-form"

_LETTER = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.:)])\s*")
# The first option in a question that holds its options, at the beginning of a line.
_OPTIONS = re.compile(r"\n\s*(?=(?:\(A\)|A[.:)])\s)")


def with_options(question: str, options: Sequence[str]) -> str:
    """Return a question with a line for each option, all with their letters.

    The form is that of Video-R1's ``src/eval_bench.py``: "Options:" follows the question at once.
    """
    lines = "".join(f"{line}\n" for line in lettered(options))
    return f"{question}Options:\n{lines}"


def lettered(options: Sequence[str]) -> list[str]:
    """Return options as "A. text"; letters that are there already are not written twice."""
    letters = [chr(ord("A") + number) for number in range(len(options))]
    found = [_LETTER.match(option) for option in options]
    has_letters = [
        match is not None and letter in match.groups()
        for match, letter in zip(found, letters, strict=True)
    ]
    bare = [_LETTER.sub("", option) for option in options] if all(has_letters) else list(options)
    return [f"{letter}. {text}" for letter, text in zip(letters, bare, strict=True)]


def without_options(text: str) -> tuple[str, list[str]]:
    """Return a question and its options, from a text that holds both; none where it holds none.

    Options begin with their letters, each on a line of its own.
    """
    start = _OPTIONS.search(text)
    if start is None:
        return text.strip(), []
    lines = [line.strip() for line in text[start.end() :].strip().split("\n")]
    options: list[str] = []
    for line in lines:
        match = _LETTER.match(line)
        if match is not None and chr(ord("A") + len(options)) in match.groups():
            options.append(line)
        elif options:
            options[-1] += f"\n{line}"
    return text[: start.start()].strip(), options


def kind_of(question_type: str, options: Sequence[str], answer: str) -> str:
    """Return the kind of a question, by what a set calls it and by its options.

    A question without options is numerical where its answer is a number, as in Video-R1's data.
    """
    if len(options) > 0 and question_type != "open":
        return MULTIPLE_CHOICE
    try:
        float(answer.replace(",", ""))
    except ValueError:
        return FREE_FORM
    return NUMERICAL
