"""What can be told of an evaluation before lmms-eval begins it: whether it can be done at all."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from replay_adapters.lmms_eval.arguments import check_arguments, parse_generation, parse_model_args
from replay_adapters.lmms_eval.flags import Flags, check_flags
from replay_adapters.lmms_eval.journal import known_batches
from replay_adapters.lmms_eval.judges import check_named
from replay_adapters.lmms_eval.names import MODEL_NAMES
from replay_adapters.lmms_eval.processes import count_processes_on_the_cpu
from replay_adapters.settings.places import check_file, check_folder, check_name
from replay_adapters.settings.resources import expanded, is_file, is_folder
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown

if TYPE_CHECKING:
    from replay_adapters.session.session import Session

# What ``--tasks`` also takes: the names that there are.
LISTS = ("list", "list_groups", "list_tags", "list_subtasks")
_MISSING = "--tasks is missing; `lmms_eval --tasks list` shows what there is"


def check_evaluation(given: Mapping[str, Any], session: "Session", harness: Any) -> None:
    """Check one evaluation's flags, model, tasks and checkpoints; no weights are read.

    ``given`` are all flags as upstream has them, ``harness`` its module.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    if given.get("power_analysis"):
        return
    flags = check_flags(given)
    if flags.tasks is None:
        raise UsageError(_MISSING)
    if flags.tasks in LISTS:
        return
    _check_model(flags.model)
    if flags.model not in MODEL_NAMES:  # whose arguments are upstream's matter
        parse_generation(flags.gen_kwargs)
        _tasks(flags, given, harness)
        return
    if flags.cache_requests is not None:
        raise UsageError(
            f"--cache_requests={flags.cache_requests} is not possible with {flags.model}: "
            "lmms-eval keeps requests in pickles, and reading one runs whatever code is in it "
            "(allowed: --use_cache and replay_journal, which keep answers)"
        )
    count_processes_on_the_cpu()
    check_arguments(flags.model, flags.batch_size, flags.gen_kwargs)
    settings = session.resolved.settings(_arguments(flags))
    if flags.output_path is not None:
        check_folder("--output_path", flags.output_path)
    if settings.journal is not None:
        check_file("replay_journal", settings.journal)
        known_batches(settings.journal)
    tasks = _tasks(flags, given, harness)
    settings.check_tasks(tasks)
    # One leaves the answers unscored, the other starts a judge.
    if not flags.predict_only and not flags.launcher_args:
        check_named(tasks)
    session.resolved.checkpoint(settings)


def _arguments(flags: Flags) -> dict[str, Any]:
    """Return the model's arguments, with the device of its flag among them."""
    arguments = parse_model_args(flags.model_args)
    if flags.device is None:
        return arguments
    if "device" in arguments:
        raise UsageError(
            f"device={shown(arguments['device'])} in --model_args does not go with --device "
            f"{flags.device} (allowed: one of the two)"
        )
    return {**arguments, "device": flags.device}


def _check_model(name: str) -> None:
    from lmms_eval.models import list_available_models

    known = list_available_models(include_aliases=True)
    if name not in known:
        ours = ", ".join(MODEL_NAMES)
        raise UsageError(
            f"--model {shown(name)} is not a model of lmms-eval or of this package; "
            f"{did_you_mean(name, [*MODEL_NAMES, *known])}This package's models: {ours}"
        )


def _tasks(flags: Flags, given: Mapping[str, Any], harness: Any) -> list[str]:
    """Return the tasks that are asked for by name, each of which there is.

    Raises:
        UsageError: there is none of such a name, or a file of tasks cannot be read.
    """
    asked = str(flags.tasks)
    if is_folder(expanded(asked)):
        return []
    names = asked.split(",")
    if not all(name.strip() for name in names):
        raise UsageError(
            f"--tasks={shown(asked)} names no task between its commas (allowed: names with commas "
            "between; `lmms_eval --tasks list` shows what there is)"
        )
    manager = _manager(flags, given, harness)
    if flags.include_path is not None and flags.model in MODEL_NAMES:
        for name in manager.all_tasks:
            check_name(f"--include_path {shown(flags.include_path)} has a task of the name", name)
    found = set(manager.match_tasks(names))
    for name in names:
        if is_file(expanded(name)):
            _check_file(name, ours=flags.model in MODEL_NAMES)
        elif "*" in name and not manager.match_tasks([name]):
            raise UsageError(f"--tasks {shown(name)} fits the name of no task")
        elif "*" not in name and name not in found:
            raise UsageError(
                f"--tasks {shown(name)} is not a task of lmms-eval or of this package; "
                f"{did_you_mean(name, manager.all_tasks)}`lmms_eval --tasks list` shows what there "
                "is"
            )
    return [name for name in names if not is_file(expanded(name))]


def _manager(flags: Flags, given: Mapping[str, Any], harness: Any) -> Any:
    """Return upstream's task manager as it will be made for this evaluation; it is kept."""
    if os.environ.get("LMMS_EVAL_PLUGINS"):
        return harness.TaskManager(flags.verbosity, model_name=flags.model)
    try:
        return harness.TaskManager(
            given.get("verbosity"), include_path=flags.include_path, model_name=flags.model
        )
    except Exception as error:  # whatever a file there makes of upstream's reader
        if flags.include_path is None:
            raise
        raise UsageError(
            f"--include_path {shown(flags.include_path)} holds a task file that cannot be read: "
            f"{shown(' '.join(str(error).split()) or repr(error), 200)}"
        ) from error


def _check_file(path: str, *, ours: bool) -> None:
    from lmms_eval.utils import load_yaml_config

    try:
        content = load_yaml_config(str(expanded(path)))
    except Exception as error:  # whatever the file makes of upstream's reader
        why = shown(" ".join(str(error).split()) or repr(error), 200)
        raise UsageError(f"--tasks {shown(path)} cannot be read as a task: {why}") from error
    if not isinstance(content, dict) or not {"task", "group"} & content.keys():
        raise UsageError(
            f"--tasks {shown(path)} is no file of a task (allowed: a mapping with 'task' or "
            "'group')"
        )
    tasks = content.get("task")
    listed = tasks if isinstance(tasks, list) else [tasks]
    names = [one.get("task") if isinstance(one, dict) else one for one in listed]
    for name in (*names, content.get("group")):
        if ours and isinstance(name, str):
            check_name(f"--tasks {shown(path)} has the name", name)
