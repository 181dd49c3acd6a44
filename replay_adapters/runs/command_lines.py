"""The command lines that finished runs were made with, told from the harness's own files."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.runs.run import RunLog
from replay_adapters.settings.options import unread_options
from replay_adapters.settings.run_options import PREFIX
from replay_core import ReplayConfig, UsageError

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
# Options that the policy alone does not read, and is refused with.
_OF_STEERING = {
    "replay_method",
    *(f"{PREFIX}{name}" for name in unread_options(ReplayConfig(method="none"))),
}
# Flags of VLMEvalKit whose value nobody else may see, and what stands for it.
_KEYS = ("--judge-key", "--key")
_KEY = "JUDGE_KEY_AS_TYPED"


def command_line(runs: Sequence[RunLog], *, twin: bool) -> str:
    """Return the command line that one command made ``runs`` with, or that makes their twins.

    A judge's key stands as ``$JUDGE_KEY`` in it.

    Raises:
        UsageError: the harness's files do not say it.
    """
    made = _of_lmms_eval if runs[0].harness == "lmms-eval" else _of_vlmevalkit
    return made(runs, twin=twin)


def without_keys(words: Sequence[str]) -> list[str]:
    """Return a command's words with a stand-in for each key of a judge or of an API."""
    return [
        _KEY if before in _KEYS else _in_one(word)
        for before, word in zip(["", *words], words, strict=False)
    ]


def _in_one(word: str) -> str:
    name, equals, _ = word.partition("=")
    return f"{name}={_KEY}" if equals and name in _KEYS else word


def joined(words: Sequence[str]) -> str:
    """Return a command for a shell, in which a key that was left out is a variable."""
    return shlex.join(words).replace(_KEY, '"$JUDGE_KEY"')


def _of_lmms_eval(runs: Sequence[RunLog], *, twin: bool) -> str:
    results = json.loads(runs[0].beside[0].read_text(encoding="utf-8"))
    given = {**results["config"], **(results["config"].get("resolved_cli_args") or {})}
    parts = re.split(r",(?![^\[]*\])", str(given.get("model_args") or ""))
    own = [part for part in parts if part]
    kept = [part for part in own if part.split("=")[0].strip() not in _OF_STEERING]
    where = str(given.get("output_path") or runs[0].path.parent).rstrip("/")
    words = ["lmms_eval", "--model", str(given.get("model") or results["model_source"])]
    words += ["--model_args", ",".join([*kept, "replay_method=none"] if twin else own)]
    words += ["--tasks", ",".join(run.task for run in runs)]
    for flag, default in _LMMS_EVAL_FLAGS.items():
        value = given.get(flag, default)
        if value not in (default, None, ""):
            words += _flag(flag, value)
    words += ["--log_samples", "--output_path", f"{where}-none" if twin else where]
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [f"--{name}", str(value)]


def _of_vlmevalkit(runs: Sequence[RunLog], *, twin: bool) -> str:
    run = runs[0]
    model = next(parent for parent in run.path.parents if (parent / "replay").is_dir())
    status = _json(model / "status.json")
    arguments = run.settings.get("arguments")
    if not status.get("argv") or arguments is None:
        raise UsageError(
            f"{model} does not say by which command {', '.join(one.task for one in runs)} was "
            "answered, as runs of an older release; run it again, and once more with its model's "
            "name ending in -none"
        )
    argv = list(status["argv"][1:])
    others = _without(argv, "--model", "--data", "--config", *_KEYS)
    for flag in _KEYS:
        others += [flag, _KEY] if _after(argv, flag) else []
    words = [] if status.get("pred_format", "xlsx") == "xlsx" else ["env"]
    words += [f"PRED_FORMAT={status['pred_format']}"] if words else []
    tasks = [one.task for one in runs]
    config = _after(argv, "--config")
    method = "none" if twin else str(run.config["method"])
    name = f"{_bare(model.name, str(run.config['method']))}-{method}"
    if config:
        content = _json(Path(config[0]))
        entry = _own_options(content["model"][model.name], twin) | {"replay_method": method}
        data = {k: v for k, v in content["data"].items() if {k, v.get("dataset")} & set(tasks)}
        file = Path(config[0]).with_name(f"{name}.json")
        written = json.dumps({"model": {name: entry}, "data": data})
        words += ["vlmeval_replay", *others, "--config", str(file)]
        return f"printf %s {shlex.quote(written)} > {shlex.quote(str(file))} && {joined(words)}"
    words += ["vlmeval_replay", "--model", name, "--data", *tasks]
    options = _own_options(arguments, twin)
    options = {k: v for k, v in options.items() if k not in ("pair", "replay_method")}
    if options:
        words += ["--replay", ",".join(_option(*one) for one in options.items())]
    return joined([*words, *others])


def _own_options(options: Mapping[str, Any], twin: bool) -> dict[str, Any]:
    """Return the options of a run, or those that its twin, the policy alone, has as well."""
    return {k: v for k, v in options.items() if not twin or k not in _OF_STEERING}


def _option(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{name.removeprefix('replay_')}={text}"


def _bare(name: str, method: str) -> str:
    """Return a model's name without the method and the fingerprint at its end."""
    return re.sub(rf"(-{method})?(-[0-9a-f]{{8}})?$", "", name)


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
