"""The ``vlmeval_replay`` command: VLMEvalKit's own run script, with replay among its models.

Beside the script's own arguments it takes ``--replay NAME=VALUE,…`` (options for this package's
models of ``--model``), ``--samples K`` and ``--vlmevalkit DIR`` (a checkout to run instead of the
installed package). Upstream ends with 0 whatever failed; this command ends with 2 on bad input,
with 1 when a row of a set was not answered, or a set not evaluated, and with 3 when a row ended in
a fault (out of memory, an exception); the last line tells which.
"""

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from replay_adapters.console import FAILED, check_transformers, refuse
from replay_adapters.settings.help import asks_for_help, listed, print_help
from replay_adapters.settings.places import check_folder, check_name
from replay_adapters.settings.run_options import PREFIX
from replay_adapters.vlmevalkit import register
from replay_adapters.vlmevalkit.arguments import CLASSES, NOT_IN_REPLAY, parse_options, shared
from replay_adapters.vlmevalkit.data import check_data
from replay_adapters.vlmevalkit.fetching import check_sets
from replay_adapters.vlmevalkit.flags import Sentences, check_environment, check_flags
from replay_adapters.vlmevalkit.judges import check_judges
from replay_adapters.vlmevalkit.names import arguments_of
from replay_adapters.vlmevalkit.run_files import read_config
from replay_adapters.vlmevalkit.status import Run, verdict
from replay_adapters.vlmevalkit.upstream import (
    load_run_script,
    package_folder,
    refuse_unknown_flags,
    stock_classes,
    stock_models,
)
from replay_core import UsageError
from replay_core.errors import shown

if TYPE_CHECKING:
    from replay_adapters.vlmevalkit.planned import Planned

PROGRAM = "vlmeval_replay"
_OPTIONS = """
Options of this package's models. --replay takes them as NAME=VALUE with commas between, without
their replay_, and the arguments of the harness's class beside them (max_pixels, max_new_tokens,
temperature …). In a run file (--config) they stand beside "class" as they are named here. A
pair's preset wins over the defaults listed here, and what is given wins over both;
`activation-replay pairs` lists the pairs.
"""
# Of the name of a changed run file: of about ten models.
_LONGEST_ENDINGS = 90
OUR_FLAGS = ("--replay", "--samples", "--vlmevalkit", "--help")


def main() -> None:
    """Run VLMEvalKit's main on ``sys.argv``; exit with 2 on bad input, 1 on a failure.

    With 3 where every row was answered, but some ended in a fault.
    """
    check_transformers(PROGRAM, "vlmevalkit")
    try:
        if asks_for_help(sys.argv[1:]):
            _print_help(sys.argv[1:])
        run = prepare(sys.argv[1:])
    except UsageError as error:
        refuse(PROGRAM, error)
    started, rank, stopped = time.time(), int(os.environ.get("RANK", 0)), False
    script = load_run_script(run.checkout)
    if run.answers:
        try:
            check_data(run.entries or dict.fromkeys(run.datasets))
        except UsageError as error:
            refuse(PROGRAM, error)
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
        code, told = verdict(run, started)
        print(f"{PROGRAM}: {told}", file=sys.stderr)
        if stopped or code:
            sys.exit(FAILED if stopped else code)


def options() -> str:
    """Return the options as they are typed in VLMEvalKit."""
    return _OPTIONS + listed({k: f"Not in --replay: {why}." for k, why in NOT_IN_REPLAY.items()})


def _print_help(argv: list[str]) -> NoReturn:
    """Print the run script's help, and what this command has beside it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--vlmevalkit", type=Path)
    checkout = parser.parse_known_args(argv)[0].vlmevalkit
    package_folder(checkout)
    sys.argv[1:] = ["--help"]
    ours = str(__doc__).replace("``", "")
    print_help(lambda: load_run_script(checkout).main(), f"\n{ours}{options()}")


def prepare(argv: list[str]) -> Run:
    """Return the command line with our options taken out and our models under their full names.

    A full name ends with the fingerprint of the settings, so that the harness, which takes whatever
    predictions it finds in a model's folder, never mixes two settings. Nothing heavy is imported.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    parser = Sentences(add_help=False, allow_abbrev=False)
    parser.add_argument("--replay")
    parser.add_argument("--samples")
    parser.add_argument("--vlmevalkit", type=Path)
    parser.add_argument("--model", nargs="+")
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--config")
    parser.add_argument("--work-dir", default="./outputs")
    asked, others = parser.parse_known_args(argv)
    flags = [part.partition("=")[0] for part in others if part.startswith("--")]
    refuse_unknown_flags(flags, OUR_FLAGS, asked.vlmevalkit)
    check_flags(others)
    check_environment(os.environ)
    for flag in ("model", "data"):
        _refuse_twice(flag, getattr(asked, flag) or ())
    work_dir = Path(os.environ.get("MMEVAL_ROOT", asked.work_dir))
    check_folder("--work-dir", work_dir)
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


def _refuse_twice(flag: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"--{flag} names {shown(twice[0])} twice (allowed: once)")
    if "" in names:
        raise UsageError(f"--{flag} holds an empty name (allowed: names with spaces between)")


def _with_models(run: Run, asked: argparse.Namespace) -> Run:
    options = parse_options(asked.replay) if asked.replay is not None else {}
    if asked.samples is not None:
        if "samples" in options:
            raise UsageError(
                f"--samples {shown(asked.samples)} and --replay samples="
                f"{shown(options['samples'])} say the same (allowed: one of the two)"
            )
        options["samples"] = asked.samples
    if "replay_method" in options:
        raise UsageError(
            f"--replay method={shown(options['replay_method'])} is not possible: the method is the "
            "end of the model's name, as in --model MM-Eureka-Qwen-7B-none"
        )
    stock = stock_models(run.checkout)
    run.datasets = list(asked.data)
    for dataset in run.datasets:
        check_name("--data has the name", dataset)
    if run.answers:
        check_sets(run.datasets)
    named = {name: arguments_of(name, stock) for name in asked.model}
    if any(named.values()):
        check_judges(run.datasets, run.argv, package_folder(run.checkout))
    ours = [known for known in named.values() if known]
    methods = {known["replay_method"] for known in ours}
    own = shared(options, methods) if options else {method: {} for method in methods}
    for name, known in named.items():
        _take(run, name, known and {**known, **own[known["replay_method"]]})
    if options and not run.ours:
        raise UsageError(
            f"--replay and --samples are for this package's models, but --model "
            f"{shown(' '.join(asked.model))} names none"
        )
    run.argv += ["--model", *run.models, "--data", *run.datasets]
    return run


def _with_config(run: Run, path: Path) -> Run:
    """Rename our models in a run file; the harness reads the changed copy in the work folder."""
    config = read_config(path)
    run.datasets = list(config["data"])
    run.labels = {name: str(e.get("dataset", name)) for name, e in config["data"].items()}
    run.entries = config["data"]
    for label in run.labels.values():
        check_name(f"--config {shown(path)} has the data set", label)
    if run.answers:
        check_sets(run.labels.values())
    stock, classes = stock_models(run.checkout), stock_classes(run.checkout)
    changed: dict[str, Any] = {}
    if any(entry.get("class") in (None, *CLASSES) for entry in config["model"].values()):
        check_judges(run.labels.values(), run.argv, package_folder(run.checkout))
    for name, entry in config["model"].items():
        given = dict(entry)
        kind = given.pop("class", None)
        if kind is None:
            known = arguments_of(name, stock)
        elif isinstance(kind, str) and kind in (*CLASSES, *classes):
            known = {} if kind in CLASSES else None
        else:
            raise UsageError(
                f"model {shown(name)} in {shown(path)} has class {shown(kind)}, which is neither a "
                f"class of VLMEvalKit nor one of {', '.join(CLASSES)}"
            )
        if known is None:
            _refuse_ours(name, given)
        planned = _take(run, name, None if known is None else {**known, **given}, kind)
        if planned is None:
            changed[name] = entry
        else:
            changed[run.models[-1]] = {"class": planned.class_name, **planned.arguments}
    if run.ours:
        from replay_adapters.vlmevalkit.journal import write_json

        endings = "-".join(full.rpartition("-")[2] for full in run.ours)
        if len(endings) > _LONGEST_ENDINGS:
            endings = hashlib.sha256(endings.encode()).hexdigest()[:16]
        path = run.work_dir / f"{path.stem}-{endings}.json"
        write_json(path, {**config, "model": changed})
    run.argv += ["--config", str(path)]
    return run


def _refuse_ours(name: str, given: Mapping[str, Any]) -> None:
    """Refuse our options for one of the harness's own classes, which would drop them."""
    for option in given:
        if option == "pair" or option.startswith(PREFIX):
            raise UsageError(
                f"{shown(option)}={shown(given[option])} is not an argument of model {shown(name)},"
                f" which is one of the harness's own (allowed with class {' or '.join(CLASSES)})"
            )


def _take(
    run: Run, name: str, arguments: dict[str, Any] | None, class_name: str | None = None
) -> "Planned | None":
    """Add a model to the run; one of ours, which has ``arguments``, checked and by full name."""
    if arguments is None:
        run.models.append(name)
        return None
    # Here: a wrong name does not wait for them.
    from replay_adapters.vlmevalkit.journal import check_kept
    from replay_adapters.vlmevalkit.planned import plan

    planned = plan(arguments, class_name)
    planned.settings.check_tasks(run.datasets)
    full = f"{name}-{planned.fingerprint[:8]}"
    check_kept(run.work_dir / full, planned.fingerprint)
    run.models.append(full)
    run.ours[full] = planned
    return planned


if __name__ == "__main__":
    main()
