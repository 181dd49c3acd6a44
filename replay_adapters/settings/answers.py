"""The final answer in what a model wrote, taken out of the format that its pair was trained in.

A harness's scorer looks for an answer in formats of its own. Given ``<answer>B</answer>`` behind
thoughts, or thoughts that were cut, many score 0, or whatever letter stands in them. What a scorer
is given here is the answer alone; no answer is an empty text. A model's text is only read.
"""

from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator

Takes = Literal["text", "letter", "boxed"]
"""What a scorer reads best: the answer as it stands, an option's letter, or LaTeX in a box."""

# An own pattern that runs for longer on one text than this, in seconds, finds nothing.
_PATIENCE = 1.0
_LEAD = regex.compile(
    r"^(?:(?:so|thus|therefore),?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?"
    r"(?:answer|option)\s*(?:is|:)\s*:?\s*",
    regex.IGNORECASE,
)
_WRAPPED = regex.compile(r"^\\(?:text|textbf|mathrm|mathbf|mathit|rm|bf)\s*\{([^{}]*)\}$")
_LETTER = regex.compile(
    r"^(?:(?:option|choice)\s+)?(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])(?=[.:,)]|$))", regex.IGNORECASE
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
    if found is not None:
        return _formed(_bare(found), takes) if found.strip() else ""
    if cut or _open(text, "think") or _open(text, "tool_call"):
        return ""
    rest = _behind(text, "</tool_call>" if "<tool_call>" in text else "</think>").strip()
    return _formed(_bare(rest), takes) if takes == "letter" else rest


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
    before, opening, behind = text.rpartition(f"<{tag}>")
    if not opening:
        return None
    content, closing, more = behind.partition(f"</{tag}>")
    if ends and (not closing or more.strip()):
        return None
    if not content.strip() and not closing and before:
        return _tagged(before, tag)
    return content


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
    text = text.strip()
    while True:
        shorter = _LEAD.sub("", text).strip()
        for mark in ("**", "$$", "$", "`"):
            inner = shorter.removeprefix(mark).removesuffix(mark)
            if len(shorter) >= 2 * len(mark) + 1 and shorter == f"{mark}{inner}{mark}":
                shorter = inner.strip() if mark not in inner else shorter
        if match := _WRAPPED.match(shorter):
            shorter = match.group(1).strip()
        if shorter == text:
            return text
        text = shorter


def _formed(text: str, takes: Takes) -> str:
    if takes == "letter" and (match := _LETTER.match(text)):
        letter = str(next(group for group in match.groups() if group))
        # A lone lower-case letter names an option; in front of a text it may be a word.
        if letter.isupper() or len(match.group()) == len(text):
            return letter.upper()
    return rf"\boxed{{{text}}}" if takes == "boxed" else text
