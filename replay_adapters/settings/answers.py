"""The final answer in what a model wrote, taken out of the format that its pair was trained in.

A harness's scorer looks for an answer in formats of its own. Given ``<answer>B</answer>`` behind
thoughts, or thoughts that were cut, many score 0, or whatever letter stands in them. What a scorer
is given here is the answer alone; no answer is an empty text. A model's text is only read.
"""

from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator

Takes = Literal["text", "letter", "option", "boxed", "tagged"]
"""What a scorer reads best: the answer as it stands; an option's letter; the same, but an answer
that names no letter in a sentence, in which the scorer looks for the words of an option; a box,
with a letter or LaTeX in it; or a letter in ``<answer>…</answer>``."""

# An own pattern that runs for longer on one text than this, in seconds, finds nothing.
_PATIENCE = 1.0
# How many of them may stand around an answer.
_LAYERS = 20
_NAMED = (
    r"(?:the\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|option|choice)"
    r"[*_\s]*(?:\bis\b|:|\n)[*_\s:]*"
)
_LEAD = regex.compile(
    rf"^(?:(?:(?:so|thus|therefore|hence),?\s+)?{_NAMED}|≈|\\approx\b)\s*", regex.IGNORECASE
)
# What follows "The answer is" or "Answer:" in the same sentence.
_STATED = regex.compile(rf"\b{_NAMED}(\S.*?)(?=\.\s|\.?$)", regex.IGNORECASE | regex.MULTILINE)
_WRAPPED = regex.compile(
    r"^\\(?:boxed|text|textbf|mathrm|mathbf|mathit|rm|bf)\s*\{([^{}]*)\}$"
    r"|^(\$\$?|`|\"|')((?:(?!\2).)+)\2$|^\\\((.*)\\\)$|^\\\[(.*)\\\]$",
    regex.DOTALL,
)
# An option's letter, alone or in front of its text; not the first of several letters.
_LETTER = regex.compile(
    r"^(?i:(?:option|choice)\s+)?"
    r"(?:[(\[{]([A-J])[)\]}]|([A-J])(?=[.:,)]|\s+[-–—(]|$)|([B-HJ])(?=\s+[a-z]))"
    r"(?!\s*(?:,|;|&|\band\b|\bor\b)\s*[(\[]?[A-J]\b)"
)
_LONE = regex.compile(r"^(?:(?:option|choice)\s+)?[(\[{]?([a-j])[)\]}]?$", regex.IGNORECASE)
# Letters that stand alone; an A before a word is an article, and an I is the writer.
_LETTERS = regex.compile(r"(?<![\w'’])(?:[B-HJ]|A(?!\s+(?!(?:is|and|n?or)\b)[a-z]))(?![\w'’])")
_DENIED = regex.compile(r"\b(?:not|n?either|nor|never|none|cannot)\b|n['’]t\b", regex.IGNORECASE)
_NUMBERS = regex.compile(r"(?<![\^\w.])[-+]?\\?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
# LaTeX of a plain number, with its unit; not of roots and symbols.
_PLAIN = regex.compile(
    r"(?:[-+\d\s.,/*%^{}°]|\\[dt]?frac|\\times|\\cdot|\\[,;!%$ ]|\\circ|\\degree"
    r"|\\(?:text|mathrm)\s*\{[^{}]*\})+"
)


class AnswerFormat(BaseModel):
    """How a policy marks its final answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: str | None = Field(None, pattern=r"^[A-Za-z_][\w-]{0,30}$", description="a tag's name")
    """The answer stands in ``<tag>…</tag>``."""
    pattern: str | None = Field(None, max_length=1000, description="a regex with one group")
    """For any other mark: the answer is the group of the last match; a dot matches newlines too."""
    boxed: bool = False
    r"""The answer stands in ``\boxed{…}``, within the tag where there is one."""

    @field_validator("pattern")
    @classmethod
    def _has_one_group(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                groups = regex.compile(text).groups
            except regex.error as error:
                raise ValueError(f"{text!r} is no regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"{text!r} has {groups} groups (allowed: one, the answer)")
        return text

    def __bool__(self) -> bool:
        """Whether any mark is known."""
        return bool(self.tag or self.pattern or self.boxed)


_USUAL = AnswerFormat(tag="answer", boxed=True)


def final_answer(
    text: str, marks: AnswerFormat, takes: Takes = "text", *, cut: bool = False
) -> str:
    r"""Return the final answer in a model's ``text``, in the form that a scorer ``takes``.

    It stands in the pair's marks, behind the thoughts. Without marks it is all that stands behind
    the thoughts, as it is. There is none, and the text returned is empty, where the thoughts have
    no end, where a tool is called in place of an answer, and where an unmarked text was ``cut`` at
    the limit of tokens.
    """
    found = _marked(text, marks)
    if found is None:
        found = _marked(text, _USUAL)
    if found is not None:
        return _formed(_bare(found), takes) if found.strip() else ""
    if cut or _open(text, "think") or _open(text, "tool_call"):
        return ""
    rest = _behind(text, "</tool_call>" if "<tool_call>" in text else "</think>").strip()
    return rest if takes == "text" else _said(rest, takes)


def _said(rest: str, takes: Takes) -> str:
    """Return the answer that an unmarked text comes to; the text itself where it does not say.

    It is what the text states to be the answer, or all of a short text, or the only option or
    number that its last sentence names.
    """
    stated = [one for one in _STATED.findall(rest) if not _DENIED.match(one)]
    bare = _bare(stated[-1] if stated else rest)
    letters = set(_LETTERS.findall(bare))
    if stated or " " not in bare or (_LETTER.match(bare) and len(letters) == 1):
        return _formed(bare, takes)
    last = regex.split(r"[.!?]\s+|\n", bare)[-1]
    letters, numbers = set(_LETTERS.findall(last)), _NUMBERS.findall(last)
    named = [*letters, *(numbers if takes == "boxed" or letters else ())]
    if len(named) == 1 and not _DENIED.search(last):
        return _formed(named[0], takes)
    return rest


def _marked(text: str, marks: AnswerFormat) -> str | None:
    """Return what stands in the marks, the last time; None where they are not there."""
    thought, rest = _open(text, "think"), _behind(text, "</think>")
    found: str | None = None
    if marks.pattern is not None:
        found = _last(marks.pattern, rest)
    if found is None and marks.tag is not None:
        found = _tagged(rest, marks.tag, ends=thought)
        if found is None and rest != text and not rest.strip():
            found = _tagged(text, marks.tag)
    if found is None and (thought or not marks.boxed):
        return None
    if not marks.boxed:
        return found
    box = _box(rest if found is None else found)
    return found if box is None else box


def _tagged(text: str, tag: str, *, ends: bool = False) -> str | None:
    """Return what stands in the last pair of tags; one that ``ends`` the text where asked.

    The end of the text may stand for the closing tag, as where decoding stops at it.
    """
    opening, stop = f"<{tag}>", len(text)
    while (start := text.rfind(opening, 0, stop)) >= 0:
        content, closing, more = text[start + len(opening) : stop].partition(f"</{tag}>")
        if ends and (not closing or more.strip()):
            return None
        if content.strip() or closing or not start:
            return content
        stop, ends = start, False
    return None


def _last(pattern: str, text: str) -> str | None:
    try:
        matches = regex.finditer(pattern, text, flags=regex.DOTALL, timeout=_PATIENCE)
        return next((match.group(1) for match in reversed(list(matches))), None)
    except TimeoutError:
        return None


def _box(text: str) -> str | None:
    r"""Return what stands in the last ``\boxed{…}``; empty where its end is missing."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return ""


def _open(text: str, tag: str) -> bool:
    """Whether the last opening tag is not closed again."""
    return text.rfind(f"<{tag}>") > text.rfind(f"</{tag}>")


def _behind(text: str, mark: str) -> str:
    return text.rpartition(mark)[2]


def _bare(text: str) -> str:
    """Return an answer without the sentence, the emphasis and the mathematics mode around it."""
    for _ in range(_LAYERS):
        shorter = _LEAD.sub("", text.strip()).strip().strip("*").strip()
        if match := _WRAPPED.match(shorter):
            whole, _quote, *inner = match.groups()
            shorter = next(part for part in (whole, *inner) if part is not None).strip()
        if not regex.search(r"\.\s|\.\.$", shorter):
            shorter = shorter.removesuffix(".")
        if shorter == text:
            break
        text = shorter
    return text


def _formed(text: str, takes: Takes) -> str:
    if takes == "text" or not text:
        return text
    match = _LONE.match(text) or _LETTER.match(text)
    if match:
        text = next(group for group in match.groups() if group).upper()
    if takes == "option":
        # Scorers look for an option's words only in texts of more than five.
        return f"({text})" if match else f"the answer to this question is {text}"
    if takes == "tagged":
        return f"<answer>{text}</answer>"
    if takes == "boxed":
        # The scorers' parser knows LaTeX by its dollars; it also compares texts as they are.
        latex = any(mark in text for mark in "\\^{") and _PLAIN.fullmatch(text)
        return rf"\boxed{{${text}$}}" if latex else rf"\boxed{{{text}}}"
    return text
