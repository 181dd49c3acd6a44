r"""Written answers with a person's verdict, in the formats that the published pairs are trained in.

The letters answer a question whose right option is (B) blue, out of (A) red, (B) blue, (C) green,
(D) grey and, where a set has more, further colours; the numbers answer one whose answer is
``truth``.
"""

from typing import NamedTuple

# The forms of an answer that a scorer may not read.
WORDS, FRACTION, UNIT, NUMBER, NONE = (
    "an option's words",
    "a fraction",
    "a unit",
    "a number",
    "no answer",
)
ZOOM = (
    "<think>The car is small, let me zoom in on B.</think>\n<tool_call>\n"
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40], "label": "B"}}\n'
    "</tool_call>"
)


class Written(NamedTuple):
    """What a model wrote, whether a person takes it for right, the right answer, and its form."""

    text: str
    right: bool
    truth: str = "B"
    form: str = "a letter"


LETTERS = (
    Written("B", True),
    Written("(B)", True),
    Written("B. blue", True),
    Written("**B**", True),
    Written(r"\boxed{B}", True),
    Written(r"\boxed{\text{B}}", True),
    Written("<think>Not A, nor C.</think><answer>B</answer>", True),
    Written("<think>A? No.</think>\n\n<answer> The answer is $\\boxed{B}$ </answer>", True),
    Written("<think>Red is A.</think><answer>(B) blue</answer>", True),
    Written("<think>A is red, so it is not A.</think>\n\nThe answer is B.", True),
    Written("Based on the picture, option A is too bright. The correct answer is (B).", True),
    Written("<think>Not C.</think><answer>b</answer>", True),
    Written("<think>It is not red.</think><answer>blue</answer>", True, form=WORDS),
    Written("C", False),
    Written("(A) red", False),
    Written(r"B is too dark, so \boxed{D}", False),
    Written("<think>B, or rather C.</think><answer>C</answer>", False),
    Written("<think>B?</think><answer> The answer is $\\boxed{A}$ </answer>", False),
    Written("<think>It is not blue.</think><answer>red</answer>", False, form=WORDS),
    Written("", False, form=NONE),
    Written("<think>It could be B, since the car in the picture", False, form=NONE),
    Written("<think>It is B.</think><answer></answer>", False, form=NONE),
    Written(ZOOM, False, form=NONE),
    Written("I cannot tell from the picture.", False, form=NONE),
)

NUMBERS = (
    Written("3.5", True, "3.5", NUMBER),
    Written(
        "<think>7 by 2</think><answer> The answer is $\\boxed{3.5}$ </answer>", True, "3.5", NUMBER
    ),
    Written(r"<think>So</think><answer>$\boxed{\frac{7}{2}}$</answer>", True, "3.5", FRACTION),
    Written("<think>7 by 2</think><answer>7/2</answer>", True, "3.5", FRACTION),
    Written("<think>4 by 3</think><answer>12 cm</answer>", True, "12", UNIT),
    Written("<think>4 by 3</think>The sides are 4 and 3. The area is 12.", True, "12", NUMBER),
    Written(r"A right angle is halved, so \boxed{45^\circ}", True, "45", UNIT),
    Written("<think>2 + 3</think><answer>$5</answer>", True, "5", UNIT),
    Written(r"Half of it is \boxed{50\%}", True, "50", UNIT),
    Written("<think>7 by 2</think><answer>$\\boxed{3.2}$</answer>", False, "3.5", NUMBER),
    Written("<think>4 by 3 is 12</think><answer>21 cm</answer>", False, "12", UNIT),
    Written(r"<think>so \boxed{45^\circ} might", False, "45", NONE),
    Written("<think>2 + 3 is 5</think><answer>$\\boxed{6}$</answer>", False, "5", NUMBER),
    Written("", False, "50", NONE),
)

# Where a set asks for both: every number, and one letter of every form.
_FEW = (0, 2, 5, 7, 9, 12, 14, 16, 19, 22)
MIXED = (*(LETTERS[number] for number in _FEW), *NUMBERS)
