"""What a run may be asked for beside the method's own settings: which pair, and how it is held.

Together with :class:`~replay_core.config.ReplayConfig` these are all the options of both harnesses;
what reads, refuses or lists options takes them from here. As there, a field's ``description`` says
what is allowed, and the text below it what it does.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PREFIX = "replay_"
# What is typed, where the method's setting itself is more than a text.
AS_TYPED = {"thresholds": "dynamic, release, or a file that `activation-replay thresholds` wrote"}


class PairOptions(BaseModel):
    """Which checkpoints, in which precision; under these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    pair: str | None = Field(None, description="a name of `activation-replay pairs`, or a file")
    """Policy, base, prompt and presets in one; the embedded pair where nothing is named."""

    pretrained: str | None = Field(None, description="a hub id or a folder")
    """The policy, when not the pair's. Give ``replay_base`` with it, unless it is a LoRA adapter,
    which names its base itself."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = Field(
        None, description="auto, bfloat16, float16 or float32"
    )
    """What the models are loaded in. Where not given, the pair's choice, else the harness's."""


class RunOptions(BaseModel):
    """The rest; a user types ``replay_`` in front of these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    base: str | None = Field(None, description="a hub id or a folder")
    """The checkpoint before RLVR, when not the pair's."""

    preset: str | None = Field(None, description="a name under `presets` in the pair's file")
    """Settings that a published number was made with, by name. They win over the pair's own preset,
    and what is given beside them wins over both."""

    protocol: Literal["pair", "task"] | None = Field(None, description="pair or task")
    """``pair``: the pair's own prompt, pixels and decoding, the default where it has any; ``task``:
    the task's."""

    base_device: str | int | None = Field(None, description="cpu, cuda, cuda:1 and the like")
    """Where the base is held, when not beside the policy."""

    base_quantization: Literal["8bit", "4bit"] | None = Field(None, description="8bit or 4bit")
    """In how many bits the base's decoder is held, with bitsandbytes."""

    journal: str | None = Field(None, description="a file")
    """Answers are kept there batch by batch; the same command, started again, goes on."""

    @field_validator("base_device")
    @classmethod
    def _is_a_device(cls, name: str | int | None) -> str | int | None:
        if name is not None:
            import torch  # here, since a list of the options must not cost its import

            try:
                torch.device(name)
            except RuntimeError as error:
                raise ValueError(str(error)) from error
        return name
