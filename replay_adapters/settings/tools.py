"""The tool that a policy was trained to call between its turns, as a pair's file describes it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from replay_core.config import Whole

IMAGE = "<image>"
Boxes = Literal["mapped", "published"]


class ToolProtocol(BaseModel):
    """How a policy zooms into its picture: the call, its answer, and the limits of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """The only tool: the ``name`` of a call."""
    max_turns: Whole = Field(gt=0, description="a whole number from 1 on")
    """How many texts the model may write in one conversation."""
    stop: str = Field("</tool_call>", min_length=1)
    """Decoding stops behind this text."""
    question: str = "{question}"
    """How a question is asked, in front of the protocol's ``user_suffix``."""
    choice_question: str = "{question}\n{options}"
    """The same for a question with options: ``{options}`` is a newline and one ``A. text`` line
    for each of them."""
    response: tuple[str, ...]
    """The parts of the user's turn that answers a call; ``<image>`` stands for the crop."""
    factor: Whole = Field(28, gt=0, description="a whole number from 1 on")
    """Both sides of a picture, as it is shown, are multiples of this."""
    min_crop_pixels: Whole = Field(gt=0, description="a whole number from 1 on")
    max_crop_pixels: Whole = Field(gt=0, description="a whole number from 1 on")

    @field_validator("response")
    @classmethod
    def _shows_the_crop(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        if parts.count(IMAGE) != 1:
            raise ValueError(f"{parts.count(IMAGE)} parts are {IMAGE} instead of one")
        return parts

    @model_validator(mode="after")
    def _smallest_crop_is_not_above_the_largest(self) -> "ToolProtocol":
        if self.min_crop_pixels > self.max_crop_pixels:
            raise ValueError(
                f"min_crop_pixels={self.min_crop_pixels} is above "
                f"max_crop_pixels={self.max_crop_pixels} (allowed: at most that)"
            )
        return self
