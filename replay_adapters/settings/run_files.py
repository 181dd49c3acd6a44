"""Files of ``configs/runs``: every cell of a table, with its arms, its tasks and its settings."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from replay_adapters.settings.resources import expanded, is_file, resource
from replay_adapters.settings.run_options import REPLAY_OPTIONS
from replay_adapters.settings.yaml_files import read_mapping
from replay_core import UsageError
from replay_core.errors import did_you_mean, sentence, shown

BASELINE = "none"
Harness = Literal["lmms-eval", "vlmevalkit"]
Options = Mapping[str, str | int | float | bool]


class VlmevalkitSet(BaseModel):
    """A set of VLMEvalKit: its name and, where it needs more than that, its entry in a run file."""

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: str
    """The set's name, which its files bear."""
    kind: str | None = Field(None, alias="class")
    """The harness's class; without one the set is asked for by its name alone."""

    def entry(self) -> dict[str, Any]:
        """Return what stands under ``data`` in a run file of the harness."""
        more = self.model_extra or {}
        return {"class": self.kind, "dataset": self.dataset, **more} if self.kind else {}


class Asked(BaseModel):
    """What each harness calls a benchmark; None where it does not have it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    lmms_eval: str | None = Field(None, alias="lmms-eval")
    vlmevalkit: VlmevalkitSet | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("vlmevalkit"), str):
            return {**given, "vlmevalkit": {"dataset": given["vlmevalkit"]}}
        return given


class Row(BaseModel):
    """One pair of a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair: str
    arms: Mapping[str, Options] = {}
    """Arm → options over the table's own; a table's arm that is not named here stays as it is."""
    benchmarks: tuple[str, ...] | None = None
    """The benchmarks that the table has of this pair; all of them where None."""
    exceptions: Mapping[str, Mapping[str, Options]] = {}
    """Benchmark → arm → options over all others: a cell that was made with settings of its own."""


class RunFile(BaseModel):
    """A table to be measured. Options are those of the harnesses, without ``replay_``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    published: Literal["results", "injection", "grid"] | None = None
    """Under what name ``published.yaml`` has the table's numbers."""
    model: str = "qwen2_vl_replay"
    """lmms-eval's ``--model``."""
    vlmevalkit_class: str = "Qwen2VLChatReplay"
    tasks: Mapping[str, Asked]
    """Benchmark → what each harness calls it."""
    arms: Mapping[str, Options]
    """Arm → its options; ``none`` is the baseline that all others are compared with."""
    rows: tuple[Row, ...] = Field(min_length=1)
    notes: str = ""
    """What else one should know of the table's numbers."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "RunFile":
        if BASELINE not in self.arms:
            raise ValueError(
                f"arms has no {BASELINE!r}, the baseline that others are compared with"
            )
        for row in self.rows:
            benchmarks = {*(row.benchmarks or ()), *row.exceptions}
            arms = {*row.arms, *(arm for given in row.exceptions.values() for arm in given)}
            _check("rows.benchmarks", benchmarks, self.tasks)
            _check("rows.arms", arms, self.arms)
        every = [self.arms, *(row.arms for row in self.rows)]
        every += [arms for row in self.rows for arms in row.exceptions.values()]
        named = {name for arms in every for options in arms.values() for name in options}
        _check("arms", named, [option.removeprefix("replay_") for option in REPLAY_OPTIONS])
        return self

    def options(self, row: Row, benchmark: str, arm: str) -> dict[str, Any]:
        """Return the options of one cell's arm."""
        own = row.exceptions.get(benchmark, {}).get(arm, {})
        return {**self.arms[arm], **row.arms.get(arm, {}), **own}


def _check(where: str, given: Sequence[str] | set[str], known: Any) -> None:
    for name in sorted(given):
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{where} names {shown(name)!r}; {hint}(allowed: {', '.join(known)})")


def run_file_names() -> list[str]:
    """Return the names of the shipped tables."""
    return sorted(path.stem for path in (resource("configs") / "runs").glob("*.yaml"))


def read_run_file(name_or_path: str) -> RunFile:
    """Return a shipped table by name, or the one in a YAML file.

    Raises:
        UsageError: there is no such table, or the file is none; the sentence names file and field.
    """
    shipped = resource("configs") / "runs" / f"{name_or_path}.yaml"
    path = shipped if is_file(shipped) else expanded(name_or_path)
    if not is_file(path):
        hint = did_you_mean(name_or_path, run_file_names())
        raise UsageError(
            f"{shown(name_or_path)} is neither a shipped table nor a run file; {hint}"
            f"shipped tables: {', '.join(run_file_names())}"
        )
    content = read_mapping(path, "run file", "'title', 'tasks', 'arms' and 'rows'")
    try:
        return RunFile(**content)
    except ValidationError as error:
        raise UsageError(f"run file {shown(path)}: {sentence(error, RunFile)}") from error
