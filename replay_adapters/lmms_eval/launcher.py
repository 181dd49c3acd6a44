"""The ``lmms_eval`` command: lmms-eval's own command line, whose exit code tells what happened.

Upstream ends with 0 when an evaluation failed, and has a script ``lmms-eval`` only.
"""

import argparse
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from replay_adapters.console import FAILED, FAULTY, check_transformers, refuse
from replay_adapters.settings.help import asks_for_help, lmms_eval_options, print_help

if TYPE_CHECKING:
    from replay_adapters.session.session import Session

PROGRAM = "lmms_eval"
# Upstream's other commands, whose arguments are its own matter.
COMMANDS = ("tasks", "models", "ui", "serve", "power", "version", "tui", "mcp")


def main() -> None:
    """Run lmms-eval's command line on ``sys.argv``; exit with 2 on bad input, 1 on a failure.

    With 3 where everything was answered and scored, but some samples ended in a fault.
    """
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
        ended = _Ended()
        harness.cli_evaluate_single = _noting(harness.cli_evaluate_single, ended)
        dispatch.main()
    code, told = ended.verdict()
    if told:
        print(f"{PROGRAM}: {told}", file=sys.stderr)
    if code:
        sys.exit(code)


@dataclass
class _Ended:
    """What the evaluations of a command line came to."""

    failures: list[str] = field(default_factory=list)
    totals: list[Mapping[str, Any]] = field(default_factory=list)
    """Of those by our models, in the process that gathers them."""

    def verdict(self) -> tuple[int, str]:
        """Return the exit code, and what to say last; nothing where there is nothing to say."""
        if not self.totals:
            return (FAILED, f"failed: {'; '.join(self.failures)}") if self.failures else (0, "")
        from replay_adapters.session.records import conclusion

        told, answers, faults = conclusion(self.totals)
        if self.failures:
            return FAILED, f"failed: {'; '.join(self.failures)}; {told}"
        if faults == answers > 0:
            return FAILED, f"failed: no sample was answered as it was meant to be; {told}"
        return (FAULTY if faults else 0), told


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


def _noting(evaluate: Any, ended: _Ended) -> Any:
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
            ended.failures.append(_told(error))
            raise
        results, samples = outcome
        if results is not None and args.output_path:
            ended.failures.extend(incomplete(args.output_path, results, samples))
        if results is not None and "replay" in results:
            ended.totals.append(results["replay"]["totals"])
        return outcome

    return noting


def _told(error: BaseException) -> str:
    """Return what an exception began with: upstream retries the scorers and wraps their errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
