"""The ``lmms_eval`` command: lmms-eval's own command line, whose exit code tells what happened.

Upstream ends with 0 when an evaluation failed, and has a script ``lmms-eval`` only.
"""

import argparse
import functools
import sys
from typing import TYPE_CHECKING, Any, cast

from replay_adapters.console import check_transformers, refuse
from replay_adapters.settings.help import asks_for_help, lmms_eval_options, print_help

if TYPE_CHECKING:
    from replay_adapters.session.session import Session

PROGRAM = "lmms_eval"
FAILED = 1
# Upstream's other commands, whose arguments are its own matter.
COMMANDS = ("tasks", "models", "ui", "serve", "power", "version", "tui", "mcp")


def main() -> None:
    """Run lmms-eval's command line on ``sys.argv``; exit with 2 on bad input, 1 on a failure."""
    check_transformers(PROGRAM, "lmms-eval")
    if asks_for_help(sys.argv[1:]):
        from lmms_eval.cli import dispatch

        print_help(dispatch.main, lmms_eval_options())
    import lmms_eval.__main__ as harness
    from lmms_eval.cli import dispatch

    from replay_adapters.lmms_eval.patches import keep_task_managers
    from replay_adapters.session.session import opened
    from replay_core import UsageError

    keep_task_managers(harness)
    with opened() as session:
        try:
            _check_early(sys.argv[1:], session, harness)
        except UsageError as error:
            refuse(PROGRAM, error)
        failures: list[str] = []
        harness.cli_evaluate_single = _noting(harness.cli_evaluate_single, failures)
        dispatch.main()
    if failures:
        print(f"lmms_eval: failed: {'; '.join(failures)}", file=sys.stderr)
        sys.exit(FAILED)


def _check_early(argv: list[str], session: "Session", harness: Any) -> None:
    """Check what is asked for, of every evaluation, before any weights are read."""
    from replay_adapters.lmms_eval.early import check_evaluation
    from replay_adapters.lmms_eval.flags import evaluations

    if argv[:1] == ["eval"]:
        argv = argv[1:]
    if not argv or argv[0] in COMMANDS or "--tui" in argv:
        return  # another command of upstream's, or its wizard
    for given in evaluations(_parser(harness), argv):
        check_evaluation(given, session, harness)


def _parser(harness: Any) -> argparse.ArgumentParser:
    """Return upstream's parser, which it makes and uses in one."""
    typed, sys.argv = sys.argv, [PROGRAM]
    try:
        parser, _ = harness.parse_eval_args()
    finally:
        sys.argv = typed
    return cast(argparse.ArgumentParser, parser)


def _noting(evaluate: Any, failures: list[str]) -> Any:
    """Return ``cli_evaluate_single`` with its failures noted, which upstream only prints."""

    @functools.wraps(evaluate)
    def noting(args: Any) -> Any:
        from replay_adapters.lmms_eval.arguments import check_arguments
        from replay_adapters.lmms_eval.written import incomplete
        from replay_core import UsageError

        if args.tasks is None:
            refuse(PROGRAM, "--tasks is missing; `lmms_eval --tasks list` shows what there is")
        try:
            check_arguments(args.model, args.batch_size, args.gen_kwargs)  # also of a --config file
            outcome = evaluate(args)
        except UsageError as error:
            refuse(PROGRAM, error)
        except Exception as error:
            failures.append(_told(error))
            raise
        results, samples = outcome
        if results is not None and args.output_path:
            failures.extend(incomplete(args.output_path, results, samples))
        return outcome

    return noting


def _told(error: BaseException) -> str:
    """Return what an exception began with: upstream retries the scorers and wraps their errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
