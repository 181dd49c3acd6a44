"""A steered run's twin: the run with the same settings and the policy alone, or how to make it."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.runs.comparable import check_comparable
from replay_adapters.runs.run import RunLog
from replay_adapters.settings.pairs import pair_names, read_pair
from replay_adapters.vlmevalkit.names import display_name
from replay_core import UsageError

STEERED = ("replay", "inject")
# Flags of lmms-eval that decide what is asked or how it is scored, or where: value as by default.
_LMMS_EVAL_FLAGS: dict[str, Any] = {
    "include_path": None,
    "batch_size": "1",
    "max_batch_size": None,
    "device": None,
    "num_fewshot": None,
    "limit": None,
    "offset": 0,
    "gen_kwargs": "",
    "system_instruction": None,
    "apply_chat_template": False,
    "fewshot_as_multiturn": False,
    "seed": [0, 1234, 1234, 1234],
    "process_with_media": False,
    "force_simple": False,
    "repeats": 1,
    "max_tokens": None,
}


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
    groups: dict[str, list[RunLog]] = {}
    for run in alone:
        groups.setdefault(str(run.beside[0] if _of_lmms_eval(run) else run.path.parent), []).append(
            run
        )
    tasks = ", ".join(run.task for run in alone)
    near = [
        f"{other.path} is none, since {_difference(run, other)}"
        for run in alone
        for other in plain
        if (run.harness, run.task) == (other.harness, other.task)
    ]
    commands = [_command(group) for group in groups.values()]
    why = f" ({'; '.join(near)})" if near else ""
    return (
        f"the twin of {tasks} is missing: the same settings with the policy alone{why}; make it "
        "with the command below, and name its folder too\n" + "\n".join(commands)
    )


def _of_lmms_eval(run: RunLog) -> bool:
    return run.harness == "lmms-eval"


def _command(runs: Sequence[RunLog]) -> str:
    """Return the command line that makes the twins of runs that one command made."""
    return _lmms_eval_command(runs) if _of_lmms_eval(runs[0]) else _vlmevalkit_command(runs)


def _lmms_eval_command(runs: Sequence[RunLog]) -> str:
    results = json.loads(runs[0].beside[0].read_text(encoding="utf-8"))
    given = results["config"].get("resolved_cli_args") or {}
    typed = given.get("model_args") or ""
    parts = [part for part in re.split(r",(?![^\[]*\])", str(typed)) if part]
    kept = [part for part in parts if part.split("=")[0].strip() != "replay_method"]
    where = given.get("output_path") or runs[0].path.parent
    words = ["lmms_eval", "--model", str(given.get("model") or results["model_source"])]
    words += ["--model_args", ",".join([*kept, "replay_method=none"])]
    words += ["--tasks", ",".join(run.task for run in runs)]
    for flag, default in _LMMS_EVAL_FLAGS.items():
        value = given.get(flag, default)
        if value not in (default, None, ""):
            words += _flag(flag, value)
    words += ["--log_samples", "--output_path", f"{str(where).rstrip('/')}-none"]
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [f"--{name}", str(value)]


def _vlmevalkit_command(runs: Sequence[RunLog]) -> str:
    run = runs[0]
    model = next(parent for parent in run.path.parents if (parent / "replay").is_dir())
    status = _json(model / "status.json")
    arguments = run.settings.get("arguments")
    if not status.get("argv") or arguments is None:
        raise UsageError(
            f"the twin of {', '.join(one.task for one in runs)} is missing, and {model} does not "
            "say by which command it was made, as runs of an older release; run it again, and "
            "with its model's name ending in -none"
        )
    argv = list(status["argv"][1:])
    others = _without(argv, "--model", "--data", "--config")
    words = [] if status.get("pred_format", "xlsx") == "xlsx" else ["env"]
    words += [f"PRED_FORMAT={status['pred_format']}"] if words else []
    tasks = [one.task for one in runs]
    config = _after(argv, "--config")
    name = f"{_bare(model.name, str(run.config['method']))}-none"
    if config:
        content = _json(Path(config[0]))
        entry = {**content["model"][model.name], "replay_method": "none"}
        data = {k: v for k, v in content["data"].items() if {k, v.get("dataset")} & set(tasks)}
        file = Path(config[0]).with_name(f"{name}.json")
        written = json.dumps({"model": {name: entry}, "data": data})
        words += ["vlmeval_replay", *others, "--config", str(file)]
        return f"printf %s {shlex.quote(written)} > {shlex.quote(str(file))} && {shlex.join(words)}"
    words += ["vlmeval_replay", "--model", name, "--data", *tasks]
    options = {k: v for k, v in arguments.items() if k not in ("pair", "replay_method")}
    if options:
        words += ["--replay", ",".join(_option(*one) for one in options.items())]
    return shlex.join([*words, *others])


def _option(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{name.removeprefix('replay_')}={text}"


def _bare(name: str, method: str) -> str:
    """Return a model's name without the method and the fingerprint at its end."""
    return re.sub(rf"(-{method})?(-[0-9a-f]{{8}})?$", "", name)


def title_of(settings: Mapping[str, Any]) -> str:
    """Return how a run's policy is called: as in VLMEvalKit where it is that of a shipped pair."""
    named, policy = settings.get("pair"), str(settings.get("policy") or "model")
    shipped = read_pair(str(named)) if named in pair_names() else None
    if shipped and shipped.policy == policy:
        return display_name(str(named), shipped)
    return Path(policy).name


def _without(argv: Sequence[str], *flags: str) -> list[str]:
    """Return a command line without some flags and their values."""
    kept, inside = [], False
    for word in argv:
        if word.startswith("--"):
            inside = word.partition("=")[0] in flags
        if not inside:
            kept.append(word)
    return kept


def _after(argv: Sequence[str], flag: str) -> list[str]:
    """Return the values of a flag, which stand behind it or behind its sign of equality."""
    found, inside = [], False
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            inside = name == flag
            found += [value] if inside and equals else []
        elif inside:
            found.append(word)
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
