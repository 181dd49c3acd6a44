"""Pair files: which policy belongs to which base, and how the pair is meant to be run."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from replay_adapters.settings.answers import AnswerFormat
from replay_adapters.settings.harness_options import (
    FROM_1,
    Count,
    checked_arguments,
    checked_decoding,
)
from replay_adapters.settings.resources import expanded, is_file, is_folder, resource
from replay_adapters.settings.tools import ToolProtocol
from replay_adapters.settings.yaml_files import read_mapping
from replay_core import ReplayConfig, UsageError
from replay_core.errors import did_you_mean, sentence, shown

QUESTION = "{Question}"


class Protocol(BaseModel):
    """The prompt and the decoding that a policy was trained and published with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system_prompt: str | None = None
    question_template: str | None = Field(None, description=f"a text with {QUESTION} in it, once")
    """Text around the task's own question, which stands where ``{Question}`` does."""
    type_suffixes: dict[str, str] = {}
    """Kind of question → text behind it."""
    question_type: str | None = None
    """The kind of question that is asked: one of ``type_suffixes``."""
    user_suffix: str | None = None
    """Text behind the task's own question, and behind all of the above."""
    min_pixels: Count = Field(None, description=FROM_1)
    max_pixels: Count = Field(None, description=FROM_1)
    max_num_frames: Count = Field(None, description=FROM_1)
    text_behind_clips: bool = False
    """Text behind a clip takes positions above all of the clip's, as Qwen2-VL and Qwen2.5-VL were
    trained; transformers, and with it the harness's own classes, let it begin among them."""
    answer: AnswerFormat = AnswerFormat()
    """How the final answer is marked, which is taken out of the text for the scorer."""
    tools: ToolProtocol | None = None
    """The tool that the policy calls between its turns, in tasks that answer such calls."""
    generation: dict[str, Any] = {}
    """Generation settings, under the harness's names (``max_new_tokens``, ``temperature`` …)."""

    def harness_arguments(self) -> dict[str, Any]:
        """Return what a harness's class takes in its constructor."""
        names = {"min_pixels", "max_pixels", "max_num_frames"}
        return self.model_dump(include=names, exclude_none=True)

    @field_validator("question_template")
    @classmethod
    def _holds_the_question(cls, template: str | None) -> str | None:
        if template is not None and template.count(QUESTION) != 1:
            raise ValueError(f"{template.count(QUESTION)} times {QUESTION} instead of once")
        return template

    @field_validator("generation")
    @classmethod
    def _are_settings_of_decoding(cls, given: dict[str, Any]) -> dict[str, Any]:
        return checked_decoding(given, "")

    @model_validator(mode="after")
    def _pixels_are_in_order(self) -> "Protocol":
        checked_arguments(self.harness_arguments())
        return self

    @model_validator(mode="after")
    def _type_is_known(self) -> "Protocol":
        if self.question_type is not None and self.question_type not in self.type_suffixes:
            raise ValueError(
                f"question_type={shown(self.question_type)} has no suffix (allowed: "
                f"{', '.join(self.type_suffixes) or 'none, as there are no type_suffixes'})"
            )
        return self


class PairFile(BaseModel):
    """One file of ``configs/pairs``; a user's own file has the same form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    display: str = ""
    """The name in VLMEvalKit's model names, where the policy's own would not be the only one."""
    policy: str
    """Checkpoint that answers: a hub id, or a folder (relative to this file)."""
    base: str
    rl_start: str | None = None
    """The checkpoint RL began from, where it is not the base that the paper pairs it with."""
    processor: str | None = None
    """Where the processor is loaded from, when not from the policy."""
    vision_frozen: bool | None = None
    """Whether RL left the vision tower alone; only information, the weights are compared."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    """What the models are loaded in, when not in the harness's own choice."""
    replay: dict[str, Any] = {}
    """Preset of the replay options, under their names without ``replay_``."""
    presets: dict[str, dict[str, Any]] = {}
    """Further presets by name, for ``replay_preset``: each stands over ``replay``. For a published
    number that was made with other settings than these."""
    inject: dict[str, Any] = {}
    """The same for ``replay_method=inject``, which does not read ``replay``."""
    protocol: Protocol = Protocol()
    tasks: tuple[str, ...] | None = None
    """The only tasks that the pair makes sense on; None for a general model."""
    sources: dict[str, str] = {}
    """Field (``protocol.max_pixels``), or the group it stands in, → where its value comes from."""
    unknown: tuple[str, ...] = ()
    """Fields whose value is not published, so that a default applies."""
    notes: str = ""
    """What else one should know."""

    @model_validator(mode="after")
    def _sources_are_of_its_fields(self) -> "PairFile":
        given = set(self.given())
        for path in self.sources:
            if not any(f"{one}.".startswith(f"{path}.") for one in given):
                raise ValueError(f"sources.{shown(path)} is of a field that is not given")
        for path in given.intersection(self.unknown):
            raise ValueError(f"unknown names {shown(path)}, which is given")
        return self

    def given(self) -> list[str]:
        """Return the path of every field that is given, ``protocol.max_pixels`` for one."""
        told = self.model_dump(exclude_unset=True, exclude={"sources", "unknown", "notes", "name"})
        return _paths(told, depth=3)

    def source(self, path: str) -> str | None:
        """Return where a field's value comes from: its own source, else that of its group."""
        while path and path not in self.sources:
            path = path.rpartition(".")[0]
        return self.sources.get(path)

    @model_validator(mode="after")
    def _options_are_allowed(self) -> "PairFile":
        every = {"replay": self.replay, "inject": {"method": "inject", **self.inject}}
        every |= {f"presets.{name}": {**self.replay, **own} for name, own in self.presets.items()}
        for where, options in every.items():
            # What else `thresholds` may be is a file, which need not be there yet.
            fixed = "release" if isinstance(options.get("thresholds"), str) else None
            known = {**options, "thresholds": fixed} if fixed else options
            try:
                ReplayConfig(**known)
            except ValidationError as error:
                raise ValueError(sentence(error, ReplayConfig, f"{where}.")) from error
        return self

    @model_validator(mode="after")
    def _presets_are_of_replay(self) -> "PairFile":
        named = [name for name, preset in self.presets.items() if "method" in preset]
        if named:
            raise ValueError(
                f"presets.{named[0]} has a method, but presets are for replay_method=replay "
                "(allowed: the other options; settings of an injection stand under 'inject')"
            )
        return self


def _paths(values: dict[str, Any], depth: int) -> list[str]:
    found = []
    for name, value in values.items():
        inner = _paths(value, depth - 1) if isinstance(value, dict) and depth > 1 else []
        found += [f"{name}.{path}" for path in inner] or [name]
    return found


def pair_names() -> list[str]:
    """Return the names of the shipped pairs."""
    return sorted(path.stem for path in (resource("configs") / "pairs").glob("*.yaml"))


def read_pair(name_or_path: str) -> PairFile:
    """Return a shipped pair by name, or the pair in a YAML file; an unchanged file is read once.

    Raises:
        UsageError: there is no such pair, or the file is not a pair file.
    """
    path = _file_of(name_or_path)
    state = path.stat()
    pair = _parsed(path, state.st_mtime_ns, state.st_size)
    beside = {"name": pair.name or path.stem}
    for role in ("policy", "base", "processor"):
        where = getattr(pair, role)
        if where and is_folder(path.parent / where):
            beside[role] = str((path.parent / where).resolve())
    return pair.model_copy(update=beside)


@lru_cache(maxsize=64)
def _parsed(path: Path, *state: int) -> PairFile:
    """Return what stands in a pair file, whose ``state`` says whether it was changed meanwhile."""
    content = read_mapping(path, "pair file", "'policy' and 'base'")
    try:
        return PairFile(**content)
    except ValidationError as error:
        raise UsageError(f"pair file {shown(path)}: {sentence(error, PairFile)}") from error


def pair_text(name_or_path: str) -> str:
    """Return a pair's file as it stands, with its sources, and the fields that it leaves open.

    Raises:
        UsageError: there is no such pair, or the file is not a pair file.
    """
    pair, path = read_pair(name_or_path), _file_of(name_or_path)
    open_fields = [name for name in PairFile.model_fields if name not in pair.model_fields_set]
    text = path.read_text(encoding="utf-8").rstrip()
    return f"# {pair.name}: {path}\n{text}\n# not given: {', '.join(open_fields) or 'nothing'}\n"


def _file_of(name_or_path: str) -> Path:
    """Return the file of a shipped pair, or the file that a path names."""
    shipped = resource("configs") / "pairs" / f"{name_or_path}.yaml"
    path = shipped if is_file(shipped) else expanded(name_or_path)
    if not is_file(path):
        hint = did_you_mean(repr(name_or_path), map(repr, pair_names()))
        raise UsageError(
            f"pair={shown(name_or_path)} is neither a shipped pair nor a pair file; {hint}"
            f"shipped pairs: {', '.join(pair_names())}"
        )
    return path
