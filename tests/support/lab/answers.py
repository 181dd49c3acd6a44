r"""Written answers with a person's verdict, in the formats that the published pairs are trained in.

The letters answer a question whose right option is (B) blue, out of (A) red, (B) blue, (C) green,
(D) grey and, where a set has more, further colours; the numbers answer one whose answer is
``truth``.
"""

from typing import NamedTuple

ZOOM = (
    "<think>The car is small, let me zoom in on B.</think>\n<tool_call>\n"
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 30, 40], "label": "B"}}\n'
    "</tool_call>"
)


class Written(NamedTuple):
    """What a model wrote, whether a person takes it for right, and the right answer."""

    text: str
    right: bool
    truth: str = "B"


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
    Written("<think>It is not red.</think><answer>blue</answer>", True),
    Written("C", False),
    Written("(A) red", False),
    Written(r"B is too dark, so \boxed{D}", False),
    Written("<think>B, or rather C.</think><answer>C</answer>", False),
    Written("<think>B?</think><answer> The answer is $\\boxed{A}$ </answer>", False),
    Written("<think>It is not blue.</think><answer>red</answer>", False),
    Written("", False),
    Written("<think>It could be B, since the car in the picture", False),
    Written("<think>It is B.</think><answer></answer>", False),
    Written(ZOOM, False),
    Written("I cannot tell from the picture.", False),
)

NUMBERS = (
    Written("3.5", True, "3.5"),
    Written("<think>7 by 2</think><answer> The answer is $\\boxed{3.5}$ </answer>", True, "3.5"),
    Written(r"<think>7 by 2</think><answer>$\boxed{\frac{7}{2}}$</answer>", True, "3.5"),
    Written("<think>7 by 2</think><answer>7/2</answer>", True, "3.5"),
    Written("<think>4 by 3</think><answer>12 cm</answer>", True, "12"),
    Written("<think>4 by 3</think>The area is 12. The answer is 12.", True, "12"),
    Written(r"A right angle is halved, so \boxed{45^\circ}", True, "45"),
    Written("<think>2 + 3</think><answer>$5</answer>", True, "5"),
    Written(r"Half of it is \boxed{50\%}", True, "50"),
    Written("<think>7 by 2</think><answer>$\\boxed{3.2}$</answer>", False, "3.5"),
    Written("<think>4 by 3 is 12</think><answer>21 cm</answer>", False, "12"),
    Written(r"<think>so \boxed{45^\circ} might", False, "45"),
    Written("<think>2 + 3 is 5</think><answer>$\\boxed{6}$</answer>", False, "5"),
    Written("", False, "50"),
)

# Where a set asks for both: every number, and one letter of every form.
_FEW = (0, 2, 5, 7, 9, 12, 14, 16, 19, 22)
MIXED = (*(LETTERS[number] for number in _FEW), *NUMBERS)
