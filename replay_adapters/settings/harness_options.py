"""What the harnesses' own classes may be given: their arguments and settings of decoding.

The classes themselves take whatever they are given, or fail on it in the middle of a run: a
``max_pixels`` of ``abc``, ``true`` for a number, a rate of -1 frames a second. Names are not
checked here but by each adapter, which knows its classes. Needs neither torch nor a harness.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from replay_core import UsageError
from replay_core.config import Number, Truth, Whole, true_or_false
from replay_core.errors import did_you_mean, sentence, shown

_MOST_TOKENS = 1_000_000
_MOST = 2**53  # whole numbers up to here are the same in every format that they pass through
FROM_1 = "a whole number from 1 on"
_TRUTH = "true or false"

Count = Annotated[Whole, Field(ge=1, le=_MOST)] | None


class Decoding(BaseModel):
    """Settings of ``generate``, as both harnesses call them."""

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    max_new_tokens: Annotated[Whole, Field(ge=1, le=_MOST_TOKENS)] | None = Field(
        None, description=f"a whole number from 1 to {_MOST_TOKENS:,}"
    )
    temperature: Annotated[Number, Field(ge=0, le=1000)] | None = Field(
        None, description="a number from 0 to 1000"
    )
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="a number from 0 to 1"
    )
    top_k: Annotated[Whole, Field(ge=0, le=_MOST)] | None = Field(
        None, description="a whole number from 0 on"
    )
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="a number from 0 to 1"
    )
    num_beams: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(
        None, description="a whole number from 1 to 1,000"
    )
    num_return_sequences: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(
        None, description="a whole number from 1 to 1,000"
    )
    do_sample: Truth | None = Field(None, description=_TRUTH)
    use_cache: Truth | None = Field(None, description=_TRUTH)
    repetition_penalty: Annotated[Number, Field(gt=0, le=1000)] | None = Field(
        None, description="a number above 0, at most 1000"
    )
    presence_penalty: Annotated[Number, Field(ge=-1000, le=1000)] | None = Field(
        None, description="a number from -1000 to 1000"
    )
    length_penalty: Annotated[Number, Field(ge=-1000, le=1000)] | None = Field(
        None, description="a number from -1000 to 1000"
    )
    no_repeat_ngram_size: Annotated[Whole, Field(ge=0, le=_MOST)] | None = Field(
        None, description="a whole number from 0 on"
    )
    until: str | list[str] | None = Field(None, description="a text, or a list of texts")


# What else tasks and users of lmms-eval name among the settings of decoding.
_ALSO_DECODING = (
    *("image_aspect_ratio", "max_length", "min_length", "min_new_tokens", "early_stopping"),
    *("stop_strings", "typical_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty"),
    *("bad_words_ids", "suppress_tokens", "max_time", "seed", "max_gen_toks", "image_sizes"),
    *("encoder_repetition_penalty", "num_beam_groups", "penalty_alpha", "max_agentic_steps"),
)
DECODING = (*Decoding.model_fields, *_ALSO_DECODING)


class ClassArguments(Decoding):
    """Arguments of the harnesses' classes, all of either; the settings of decoding among them."""

    min_pixels: Count = Field(None, description=FROM_1)
    max_pixels: Count = Field(None, description=FROM_1)
    total_pixels: Count = Field(None, description=FROM_1)
    max_num_frames: Count = Field(None, description=FROM_1)
    max_frames_num: Count = Field(None, description=FROM_1)
    num_frames: Count = Field(None, description=FROM_1)
    nframe: Count = Field(None, description=FROM_1)
    fps: Annotated[Number, Field(gt=0, le=1000)] | None = Field(
        None, description="a number above 0, at most 1000"
    )
    min_patches: Count = Field(None, description=FROM_1)
    max_patches: Count = Field(None, description=FROM_1)
    max_length: Count = Field(None, description=FROM_1)
    samples: Annotated[Whole, Field(ge=1, le=100_000)] | None = Field(
        None, description="a whole number from 1 to 100,000"
    )
    use_flash_attention_2: Truth | None = Field(None, description=_TRUTH)
    interleave_visuals: Truth | None = Field(None, description=_TRUTH)
    enable_thinking: Truth | None = Field(None, description=_TRUTH)
    low_cpu_mem_usage: Truth | None = Field(None, description=_TRUTH)
    use_custom_prompt: Truth | None = Field(None, description=_TRUTH)
    use_audio_in_video: Truth | None = Field(None, description=_TRUTH)
    post_process: Truth | None = Field(None, description=_TRUTH)
    verbose: Truth | None = Field(None, description=_TRUTH)
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="eager, sdpa or flash_attention_2"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1 and the like")
    device_map: str | None = Field(None, description="cpu, cuda, cuda:1 and the like, or auto")
    system_prompt: str | None = Field(None, description="a text")
    reasoning_prompt: str | None = Field(None, description="a text")
    chat_template: str | None = Field(None, description="a text")
    processor: str | None = Field(None, description="a hub id or a folder")
    revision: Literal["main"] | None = Field(
        None, description="main: a checkpoint's other states are given as folders"
    )
    trust_remote_code: Annotated[Literal[False], BeforeValidator(true_or_false)] | None = Field(
        None, description="false: no checkpoint's own code is run"
    )

    @model_validator(mode="after")
    def _smallest_is_not_above_the_largest(self) -> "ClassArguments":
        for what in ("pixels", "patches"):
            least, most = (getattr(self, f"{end}_{what}") for end in ("min", "max"))
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"min_{what}={least} is above max_{what}={most} (allowed: at most that)"
                )
        return self


def checked_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class's arguments with the values that they stand for, ``50176`` for ``50176.0``.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    return _checked(ClassArguments, given, "")


def checked_decoding(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings of decoding with the values that they stand for.

    ``where`` they were given stands in front of each name in a refusal.

    Raises:
        UsageError: a setting is not known, or its value is not allowed.
    """
    for name in given:
        if name not in DECODING:
            raise UsageError(
                f"{where}{shown(name)} is not a setting of decoding; "
                f"{did_you_mean(str(name), DECODING)}(allowed: {', '.join(Decoding.model_fields)})"
            )
    return _checked(Decoding, given, where)


def _checked(model: type[Decoding], given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    try:
        found = model(**given)
    except ValidationError as error:
        raise UsageError(sentence(error, model, prefix)) from error
    known = {name: getattr(found, name) for name in given if name in model.model_fields}
    return {**given, **known}
