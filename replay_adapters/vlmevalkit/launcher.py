"""The ``vlmeval_replay`` command: VLMEvalKit's own run script, with replay among its models.

Beside the script's own arguments it takes ``--replay NAME=VALUE,…`` (options for this package's
models of ``--model``), ``--samples K`` and ``--vlmevalkit DIR`` (a checkout to run instead of the
installed package). Upstream ends with 0 whatever failed; this command ends with 2 on bad input and
with 1 when a row of a set was not answered, or a set not evaluated; the last line tells which.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from replay_adapters.console import check_transformers, refuse
from replay_adapters.settings.help import asks_for_help, print_help, vlmevalkit_options
from replay_adapters.vlmevalkit.status import Run, verdict

PROGRAM = "vlmeval_replay"
FAILED = 1


def main() -> None:
    """Run VLMEvalKit's main on ``sys.argv``; exit with 2 on bad input, 1 on a failure."""
    check_transformers(PROGRAM, "vlmevalkit")
    from replay_core import UsageError

    try:
        if asks_for_help(sys.argv[1:]):
            _print_help(sys.argv[1:])
        run = prepare(sys.argv[1:])
    except UsageError as error:
        refuse(PROGRAM, error)
    started, rank, stopped = time.time(), int(os.environ.get("RANK", 0)), False
    script = load_run_script(run.checkout)
    from replay_adapters.vlmevalkit import register

    register()
    register(run.ours)
    sys.argv[1:] = run.argv
    try:
        script.main()
    except UsageError as error:
        refuse(PROGRAM, error)
    except SystemExit as ended:
        if ended.code != FAILED or rank > 0:
            raise
        stopped = True
    if rank == 0:
        whole, told = verdict(run, started)
        print(f"{PROGRAM}: {told}", file=sys.stderr)
        if stopped or not whole:
            sys.exit(FAILED)


def _print_help(argv: list[str]) -> NoReturn:
    """Print the run script's help, and what this command has beside it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--vlmevalkit", type=Path)
    checkout = parser.parse_known_args(argv)[0].vlmevalkit
    package_folder(checkout)
    sys.argv[1:] = ["--help"]
    ours = str(__doc__).replace("``", "")
    print_help(lambda: load_run_script(checkout).main(), f"\n{ours}{vlmevalkit_options()}")


def prepare(argv: list[str]) -> Run:
    """Return the command line with our options taken out and our models under their full names.

    A full name ends with the fingerprint of the settings, so that the harness, which takes whatever
    predictions it finds in a model's folder, never mixes two settings. Nothing heavy is imported.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    from replay_core import UsageError

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--replay")
    parser.add_argument("--samples")
    parser.add_argument("--vlmevalkit", type=Path)
    parser.add_argument("--model", nargs="+")
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--config")
    parser.add_argument("--work-dir", default="./outputs")
    asked, others = parser.parse_known_args(argv)
    _refuse_unknown_flags(others, asked.vlmevalkit)
    work_dir = Path(os.environ.get("MMEVAL_ROOT", asked.work_dir))
    run = Run([*others, "--work-dir", asked.work_dir], asked.vlmevalkit, work_dir)
    if asked.config is not None:
        if asked.model or asked.data or asked.replay or asked.samples:
            raise UsageError(
                "--config names models, data and options itself; --model, --data, --replay and "
                "--samples do not go with it"
            )
        return _with_config(run, Path(asked.config))
    if not asked.model:
        raise UsageError("--model is missing; give --model NAME --data SET, or --config FILE")
    if not asked.data:
        raise UsageError("--data is missing; give --model NAME --data SET, or --config FILE")
    return _with_models(run, asked)


def _refuse_unknown_flags(others: list[str], checkout: Path | None) -> None:
    """Name a flag that the run script does not have, before it is imported to say so."""
    import difflib
    import re

    from replay_core import UsageError

    package = package_folder(checkout)
    scripts = [path for path in (package.parent / "run.py", package / "run.py") if path.is_file()]
    source = scripts[0].read_text(encoding="utf-8") if scripts else ""
    known = ["--replay", "--samples", "--vlmevalkit", "--help"]
    known += re.findall(r"add_argument\(\s*['\"](--[\w-]+)", source)
    for flag in (part.partition("=")[0] for part in others if part.startswith("--")):
        if not any(name.startswith(flag) for name in known):
            close = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{flag} is not an argument; {hint}Arguments: {', '.join(known)}")


def _with_models(run: Run, asked: argparse.Namespace) -> Run:
    from replay_adapters.vlmevalkit.arguments import parse_options
    from replay_adapters.vlmevalkit.names import arguments_of
    from replay_core import UsageError

    options = parse_options(asked.replay) if asked.replay is not None else {}
    if asked.samples is not None:
        options["samples"] = int(asked.samples) if asked.samples.isdigit() else asked.samples
    if "replay_method" in options:
        raise UsageError(
            f"--replay method={options['replay_method']} is not possible: the method is the end of "
            "the model's name, as in --model MM-Eureka-Qwen-7B-none"
        )
    stock = stock_models(run.checkout)
    run.datasets = list(asked.data)
    for name in asked.model:
        arguments = arguments_of(name, stock)
        run.models.append(name if arguments is None else _add(run, name, {**arguments, **options}))
    if options and not run.ours:
        raise UsageError(
            f"--replay and --samples are for this package's models, but --model "
            f"{' '.join(asked.model)} names none"
        )
    run.argv += ["--model", *run.models, "--data", *run.datasets]
    return run


def _with_config(run: Run, path: Path) -> Run:
    """Rename our models in a run file; the harness reads the changed copy in the work folder."""
    from replay_adapters.vlmevalkit import CLASSES
    from replay_adapters.vlmevalkit.names import arguments_of
    from replay_core import UsageError

    config = read_config(path)
    run.datasets = list(config["data"])
    run.labels = {name: entry.get("dataset", name) for name, entry in config["data"].items()}
    stock, classes = stock_models(run.checkout), stock_classes(run.checkout)
    changed: dict[str, Any] = {}
    for name, entry in config["model"].items():
        arguments = dict(entry)
        kind = arguments.pop("class", None)
        known = arguments_of(name, stock) if kind is None else {}
        if kind is not None and kind not in (*CLASSES, *classes):
            raise UsageError(
                f"model {name} in {path} has class {kind}, which is neither a class of VLMEvalKit "
                f"nor one of {', '.join(CLASSES)}"
            )
        if known is None or (kind is not None and kind not in CLASSES):
            changed[name] = entry
            run.models.append(name)
            continue
        full = _add(run, name, {**known, **arguments}, kind)
        changed[full] = {"class": run.classes[full], **run.ours[full]}
        run.models.append(full)
    if run.ours:
        from replay_adapters.vlmevalkit.journal import write_json

        endings = "-".join(full.rpartition("-")[2] for full in run.ours)
        path = run.work_dir / f"{path.stem}-{endings}.json"
        write_json(path, {**config, "model": changed})
    run.argv += ["--config", str(path)]
    return run


def _add(run: Run, name: str, arguments: dict[str, Any], class_name: str | None = None) -> str:
    """Check one of our models and return its full name."""
    from replay_adapters.vlmevalkit.arguments import plan

    planned = plan(arguments, class_name)
    full = f"{name}-{planned.fingerprint[:8]}"
    run.ours[full], run.classes[full] = arguments, planned.class_name
    planned.settings.check_tasks(run.datasets)
    return full


def read_config(path: Path) -> dict[str, Any]:
    """Return a run file's content.

    Raises:
        UsageError: it is missing, is not JSON, or has not the form of a run file.
    """
    from replay_core import UsageError

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--config {path} is not JSON: {error}") from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("model", "data")]
    if not all(isinstance(part, dict) and part for part in parts) or not all(
        isinstance(entry, dict) for part in parts for entry in part.values()
    ):
        raise UsageError(
            f"--config {path} is not a run file: it needs 'model' and 'data', each a mapping of "
            "names to settings"
        )
    return dict(content)


def stock_models(checkout: Path | None) -> frozenset[str]:
    """Return the names that may stand in the harness's table of models, read from its source."""
    import ast

    tree = ast.parse((package_folder(checkout) / "config.py").read_text(encoding="utf-8"))
    dicts = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    keys = (key for node in dicts for key in node.keys if isinstance(key, ast.Constant))
    return frozenset(str(key.value) for key in keys)


def stock_classes(checkout: Path | None) -> frozenset[str]:
    """Return the names that the harness's model packages import, read from their source."""
    import ast

    names: set[str] = set()
    for part in ("vlm", "api"):
        source = package_folder(checkout) / part / "__init__.py"
        tree = ast.parse(source.read_text(encoding="utf-8"))
        imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
        names |= {alias.asname or alias.name for node in imports for alias in node.names}
    return frozenset(names)


def package_folder(checkout: Path | None) -> Path:
    """Return the folder of the package ``vlmeval``, without importing it.

    Raises:
        UsageError: it is not there.
    """
    from replay_core import UsageError

    if checkout is not None:
        if not (checkout / "vlmeval" / "config.py").is_file():
            raise UsageError(
                f"--vlmevalkit {checkout} is not a checkout: it has no vlmeval/config.py"
            )
        return checkout / "vlmeval"
    found = importlib.util.find_spec("vlmeval")
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            "VLMEvalKit is not installed; install it with: pip install "
            "'activation-replay[vlmevalkit]', or give --vlmevalkit DIR"
        )
    return Path(found.submodule_search_locations[0])


def load_run_script(checkout: Path | None) -> ModuleType:
    """Return the harness's run script as a module: the installed one, or a checkout's.

    A checkout's ``run.py`` gets a name that does not begin with "vlmeval": upstream's loggers would
    take it for one of their own without a parent, and lose its messages.
    """
    if checkout is None:
        return importlib.import_module("vlmeval.run")
    sys.path.insert(0, str(checkout.resolve()))
    script = checkout / "run.py"
    if not script.is_file():
        return importlib.import_module("vlmeval.run")
    spec = importlib.util.spec_from_file_location("run", script.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
