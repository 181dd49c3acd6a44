"""lmms-eval's own flags, typed or in a file of ``--config``: what each may be.

Upstream's parser takes ``nan`` for a limit, 0 for a number of samples and any word for a time zone;
what comes of it is told by a traceback, or behind the last answer. A file's values it does not look
at. The rules are those of release 0.7.3.
"""

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from replay_adapters.settings.devices import check_device
from replay_adapters.settings.resources import expanded, is_file, is_folder
from replay_adapters.settings.yaml_files import read_yaml
from replay_core import UsageError
from replay_core.config import Number, Truth, Whole
from replay_core.errors import did_you_mean, sentence, shown

_LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
_FROM_1 = "a whole number from 1 on"
_MOST = 2**53

Some = Annotated[Whole, Field(ge=1, le=_MOST)]
Text = Annotated[str, Field(min_length=1)]


def _levels(given: Any) -> Any:
    return given.upper() if isinstance(given, str) else given


class Flags(BaseModel):
    """The flags that decide whether an evaluation can begin; all others are upstream's matter."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: Text = Field(description="a name of `lmms_eval models`")
    model_args: str | dict[str, Any] | None = Field("", description="NAME=VALUE with commas")
    tasks: Text | None = Field(None, description="tasks with commas between, or a task's file")
    gen_kwargs: str | None = Field("", description="NAME=VALUE with commas")
    batch_size: str | int | None = Field(1, description=_FROM_1)
    max_batch_size: Some | None = Field(None, description=_FROM_1)
    num_fewshot: Annotated[Whole, Field(ge=0, le=_MOST)] | None = Field(
        None, description="a whole number from 0 on"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1 and the like")
    limit: Number | None = Field(
        None, description="a whole number from 1 on, a fraction between 0 and 1, or -1 for all"
    )
    offset: Annotated[Whole, Field(ge=0, le=_MOST)] = Field(
        0, description="a whole number from 0 on"
    )
    repeats: Some = Field(1, description=_FROM_1)
    max_tokens: Some | None = Field(None, description=_FROM_1)
    process_docs_parallel: Some = Field(4, description=_FROM_1)
    use_cache: Text | None = Field(None, description="a folder or a file")
    cache_requests: Literal["true", "refresh", "delete"] | None = Field(
        None, description="true, refresh or delete"
    )
    agentic_trace_mode: Literal["basic", "full"] = Field("basic", description="basic or full")
    include_path: Text | None = Field(None, description="a folder with tasks")
    output_path: Text | None = Field(None, description="a folder")
    verbosity: Annotated[Literal[_LEVELS], BeforeValidator(_levels)] = Field(  # type: ignore[valid-type]
        "INFO", description=", ".join(_LEVELS)
    )
    timezone: Text = Field("Asia/Singapore", description="a name such as Europe/Berlin, or UTC")
    reasoning_tags: Any = Field(None, description='none, or pairs as [["<think>", "</think>"]]')
    baseline: Text | None = Field(
        None, description="a file of samples, hf://USER/REPO, or a name that lmms-eval knows"
    )
    log_samples: Truth = Field(False, description="true or false")
    predict_only: Truth = Field(False, description="true or false")
    apply_chat_template: Truth = Field(False, description="true or false")
    fewshot_as_multiturn: Truth = Field(False, description="true or false")
    force_simple: Truth = Field(False, description="true or false")
    launcher_args: str | None = Field(None, description="NAME=VALUE with commas")
    hf_hub_log_args: str = Field("", description="NAME=VALUE with commas")
    wandb_args: str = Field("", description="NAME=VALUE with commas")
    swanlab_args: str = Field("", description="NAME=VALUE with commas")

    @field_validator("limit")
    @classmethod
    def _is_a_number_of_items(cls, given: float | None) -> float | None:
        if given is None or given == -1 or 0 < given < 1:
            return given
        if not math.isfinite(given) or given < 1 or not given.is_integer():
            raise ValueError("no number of items")
        return given

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, given: str) -> str:
        import pytz

        try:
            pytz.timezone(given)
        except (pytz.UnknownTimeZoneError, UnicodeError, ValueError, AttributeError) as error:
            raise ValueError("no time zone") from error
        return given

    @field_validator("include_path")
    @classmethod
    def _is_a_folder(cls, given: str | None) -> str | None:
        if given is not None and not is_folder(Path(given)):
            raise ValueError("no folder")
        return given

    @field_validator("baseline")
    @classmethod
    def _can_be_found(cls, given: str | None) -> str | None:
        from lmms_eval.baselines.registry import BASELINE_REGISTRY

        if given is not None and not (
            given.split(":")[0] in BASELINE_REGISTRY
            or given.startswith("hf://")
            or "huggingface.co" in given
            or is_file(Path(given))
        ):
            raise ValueError("no baseline")
        return given

    @field_validator("reasoning_tags")
    @classmethod
    def _are_pairs(cls, given: Any) -> Any:
        if given is None or given is False or given == "none":
            return given
        found = json.loads(given) if isinstance(given, str) else given
        pairs = isinstance(found, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(tag, str) for tag in pair)
            for pair in found
        )
        if not pairs:
            raise ValueError("no pairs of tags")
        return given


def check_flags(given: Mapping[str, Any]) -> Flags:
    """Return the flags of one evaluation, by their names without the dashes.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    try:
        flags = Flags(**given)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise UsageError("--reasoning_tags is nested too deep") from error
        raise UsageError(sentence(error, Flags, "--")) from error
    check_device("--device", flags.device, here=True)
    for name in ("hf_hub_log_args", "wandb_args", "swanlab_args"):
        parts = [part for part in getattr(flags, name).split(",") if part.strip()]
        if any("=" not in part for part in parts):
            raise UsageError(
                f"--{name}={shown(getattr(flags, name))} is not allowed (allowed: "
                f"{Flags.model_fields[name].description})"
            )
    if (flags.log_samples or flags.predict_only) and not flags.output_path:
        one = "log_samples" if flags.log_samples else "predict_only"
        raise UsageError(f"--{one} needs --output_path FOLDER, where the samples are written")
    if flags.fewshot_as_multiturn and not (flags.apply_chat_template and flags.num_fewshot):
        raise UsageError(
            "--fewshot_as_multiturn needs --apply_chat_template and --num_fewshot of at least 1"
        )
    return flags


def evaluations(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[dict[str, Any]]:
    """Return the flags of every evaluation that a command line asks for, as upstream reads them.

    ``parser`` is upstream's. Without ``--config`` there is one; what is typed beside it wins over
    each of the file's evaluations. A file's ``env`` is set, as upstream does.

    Raises:
        UsageError: the parser refuses the line, or the file is none of ``--config``.
    """
    defaults = vars(parser.parse_args([]))
    typed = vars(_parsed(parser, argv))
    if not typed["config"]:
        return [typed]
    given = {name: value for name, value in typed.items() if value != defaults[name]}
    entries = _entries(expanded(typed["config"]), set(defaults))
    return [{**defaults, **entry, **given} for entry in entries]


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    def refuse(message: str) -> None:
        known = [flag for action in parser._actions for flag in action.option_strings]
        _, unknown, flag = message.partition("unrecognized arguments: ")
        hint = did_you_mean(flag.split()[0].partition("=")[0], known).strip() if unknown else ""
        raise UsageError("; ".join(filter(None, [shown(message, 200), hint])))

    parser.error = refuse  # type: ignore[method-assign, assignment]
    return parser.parse_args(list(argv))


def _entries(path: Path, known: set[str]) -> list[dict[str, Any]]:
    content = read_yaml(path, "--config")
    entries = content if isinstance(content, list) else [content]
    if not entries or not all(isinstance(entry, dict) and entry for entry in entries):
        raise UsageError(
            f"--config {shown(path)} is no evaluation: it needs a mapping of flags to values, as "
            "`model: qwen2_vl_replay`, or a list of such"
        )
    for entry in entries:
        variables = entry.pop("env", None) or {}
        if not isinstance(variables, dict):
            raise UsageError(
                f"env={shown(variables)} in --config {shown(path)} is not allowed (allowed: a "
                "mapping of variables to values)"
            )
        for name, value in variables.items():
            os.environ[str(name)] = os.path.expandvars(str(value))
        for name in entry:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise UsageError(
                    f"{shown(name)} in --config {shown(path)} is not a flag of lmms-eval; {hint}"
                    "`lmms_eval eval --help` lists them"
                )
    return entries
