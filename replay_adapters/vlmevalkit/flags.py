"""VLMEvalKit's own flags: what each may be, told before its run script is imported.

Upstream's parser takes a limit of -5 and a retry of -1, and tells of a word in place of a number
behind ten seconds of imports. The rules are those of ms-vlmeval 0.0.20.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from replay_adapters.settings.resources import expanded, is_folder
from replay_core import UsageError
from replay_core.config import Number, Whole
from replay_core.errors import sentence, shown

_FROM_1 = "a whole number from 1 on"
_FROM_0 = "a whole number from 0 on"
_MOST = 2**53
_FORMATS = {"PRED_FORMAT": ("tsv", "xlsx", "json"), "EVAL_FORMAT": ("csv", "json")}

Some = Annotated[Whole, Field(ge=1, le=_MOST)] | None
Any0 = Annotated[Whole, Field(ge=0, le=_MOST)] | None


class Flags(BaseModel):
    """The flags of the run script whose values can be wrong, by their names in the script."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: Literal["all", "infer", "eval"] | None = Field(None, description="all, infer or eval")
    limit: Some = Field(None, description=_FROM_1)
    api_nproc: Some = Field(None, alias="api-nproc", description=_FROM_1)
    nproc: Some = Field(None, description=_FROM_1)
    retry: Any0 = Field(None, description=_FROM_0)
    reuse_aux: Literal["all", "infer", "none", "0", "1", "true", "false", "yes", "no"] | None = (
        Field(None, alias="reuse-aux", description="all, infer or none")
    )
    judge_api_nproc: Some = Field(None, alias="judge-api-nproc", description=_FROM_1)
    judge_retry: Any0 = Field(None, alias="judge-retry", description=_FROM_0)
    judge_timeout: Some = Field(None, alias="judge-timeout", description=_FROM_1)
    max_tokens: Some = Field(None, alias="max-tokens", description=_FROM_1)
    temperature: Annotated[Number, Field(ge=0, le=1000)] | None = Field(
        None, description="a number from 0 to 1000"
    )
    top_k: Any0 = Field(None, alias="top-k", description=_FROM_0)
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, alias="top-p", description="a number from 0 to 1"
    )
    repetition_penalty: Annotated[Number, Field(gt=0, le=1000)] | None = Field(
        None, alias="repetition-penalty", description="a number above 0, at most 1000"
    )
    timeout: Some = Field(None, description=_FROM_1)
    monitor_interval: Some = Field(None, alias="monitor-interval", description=_FROM_1)

    @field_validator("mode", "reuse_aux", mode="before")
    @classmethod
    def _without_case(cls, given: Any) -> Any:
        return given.lower() if isinstance(given, str) else given


class Sentences(argparse.ArgumentParser):
    """A parser whose errors are sentences."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(shown(message, 200))


def check_flags(argv: Sequence[str]) -> None:
    """Check the values of the run script's flags in a command line.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    parser = Sentences(add_help=False, allow_abbrev=False)
    names = [field.alias or name for name, field in Flags.model_fields.items()]
    for name in names:
        parser.add_argument(f"--{name}", dest=name)
    given, _ = parser.parse_known_args(list(argv))
    try:
        Flags(**{name: value for name, value in vars(given).items() if value is not None})
    except ValidationError as error:
        raise UsageError(sentence(error, Flags, "--")) from error


def check_environment(environment: Mapping[str, str]) -> None:
    """Check the variables that the harness reads: the formats of its files, and where sets are.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    for name, allowed in _FORMATS.items():
        given = environment.get(name, "")
        if given and given.lower() not in allowed:
            raise UsageError(
                f"{name}={shown(given)} is not allowed (allowed: {', '.join(allowed)})"
            )
    root = environment.get("LMUData")
    if root is not None and not is_folder(expanded(root)):
        raise UsageError(
            f"LMUData={shown(root)} is no folder, in place of which VLMEvalKit would take "
            f"{os.path.join('~', 'LMUData')} (allowed: a folder that there is)"
        )
