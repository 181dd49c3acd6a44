"""A steered run's twin: the run with the same settings and the policy alone, or how to make it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.runs.command_lines import command_line
from replay_adapters.runs.comparable import check_comparable
from replay_adapters.runs.run import RunLog
from replay_adapters.settings.pairs import pair_names, read_pair
from replay_adapters.vlmevalkit.names import display_name
from replay_core import UsageError

STEERED = ("replay", "inject")


def with_twins(runs: Iterable[RunLog]) -> list[tuple[RunLog, RunLog]]:
    """Return (twin, run) of each steered run among ``runs``; the others are left.

    Raises:
        UsageError: none is steered, two are of one task, or one has no twin; the sentence then
            holds the command that makes it.
    """
    every = list(runs)
    steered = [run for run in every if run.config["method"] in STEERED]
    if not steered:
        raise UsageError(
            f"none of the runs was steered (their methods: "
            f"{', '.join(sorted({run.config['method'] for run in every}))}); a submission needs "
            f"one of {' or '.join(STEERED)}"
        )
    _refuse_two(steered)
    plain = [run for run in every if run.config["method"] == "none"]
    found = {id(run): _twin(run, plain) for run in steered}
    alone = [run for run in steered if found[id(run)] is None]
    if alone:
        raise UsageError(_missing(alone, plain))
    return [(twin, run) for run in steered if (twin := found[id(run)]) is not None]


def _refuse_two(steered: Sequence[RunLog]) -> None:
    seen: dict[tuple[str, str], RunLog] = {}
    for run in steered:
        other = seen.setdefault((run.harness, run.task), run)
        if other is not run:
            raise UsageError(
                f"two runs are of {run.task} in {run.harness}: {other.path} and {run.path}; "
                "give one of them"
            )


def _twin(run: RunLog, plain: Sequence[RunLog]) -> RunLog | None:
    return next((one for one in plain if _difference(run, one) is None), None)


def _difference(run: RunLog, other: RunLog) -> str | None:
    """Return why another run is no twin of a run; None where it is."""
    if (run.harness, run.task) != (other.harness, other.task):
        return f"it is of {other.task} in {other.harness}"
    for name in ("policy", "policy_revision", "dtype"):
        ours, theirs = run.settings.get(name), other.settings.get(name)
        if ours != theirs:
            return f"{name} is {ours} in one and {theirs} in the other"
    try:
        check_comparable(other, run)
    except UsageError as error:
        return str(error)
    return None


def _missing(alone: Sequence[RunLog], plain: Sequence[RunLog]) -> str:
    """Return what is missing, why the runs that come near are none, and the commands."""
    groups: dict[Path, list[RunLog]] = {}
    for run in alone:
        made = run.beside[0] if run.harness == "lmms-eval" else run.path.parent
        groups.setdefault(made, []).append(run)
    tasks = ", ".join(run.task for run in alone)
    near = [
        f"{other.path} is none, since {_difference(run, other)}"
        for run in alone
        for other in plain
        if (run.harness, run.task) == (other.harness, other.task)
    ]
    commands = [command_line(group, twin=True) for group in groups.values()]
    why = f" ({'; '.join(near)})" if near else ""
    return (
        f"the twin of {tasks} is missing: the same settings with the policy alone{why}; make it "
        "with the command below, and name its folder too\n" + "\n".join(commands)
    )


def title_of(settings: Mapping[str, Any]) -> str:
    """Return how a run's policy is called: as in VLMEvalKit where it is that of a shipped pair."""
    named, policy = settings.get("pair"), str(settings.get("policy") or "model")
    shipped = read_pair(str(named)) if named in pair_names() else None
    if shipped and shipped.policy == policy:
        return display_name(str(named), shipped)
    return Path(policy).name
