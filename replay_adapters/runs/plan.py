"""The cells of a table, and the harness's own command line for each of their arms."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from replay_adapters.runs.command_lines import joined, without_keys
from replay_adapters.runs.published import table_number
from replay_adapters.settings.benchmarks import Benchmark, BenchmarkTask, benchmarks
from replay_adapters.settings.options import Settings, resolve
from replay_adapters.settings.run_files import Asked, Harness, Row, RunFile
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown

# What scorers want to be set when they are imported, though they ask nobody.
_WANTED = {"OPENAI_API_KEY": "none"}


@dataclass(frozen=True)
class Asking:
    """What is the same for all cells of one call: the harness, and what is passed on to it."""

    harness: Harness
    output: Path
    limit: int | None = None
    batch_size: int = 1
    more: tuple[str, ...] = ()
    """Arguments that every command line of the harness gets behind our own."""


@dataclass(frozen=True)
class Cell:
    """One arm of a pair on a benchmark."""

    table: RunFile
    row: Row
    benchmark: str
    arm: str
    asking: Asking
    settings: Settings = field(repr=False)

    @property
    def asked(self) -> Asked:
        """What the harnesses call the benchmark."""
        return self.table.tasks[self.benchmark]

    @property
    def task(self) -> str:
        """What the harness's files call it."""
        if self.asking.harness == "lmms-eval":
            return str(self.asked.lmms_eval)
        assert self.asked.vlmevalkit is not None
        return self.asked.vlmevalkit.dataset

    @property
    def known(self) -> Benchmark | None:
        """What is known of the benchmark; None for one that the paper does not have."""
        return benchmarks().get(self.benchmark)

    @property
    def known_task(self) -> BenchmarkTask | None:
        """What is known of the harness's task; None for one that is not named."""
        return self.known.tasks.get(self.task) if self.known else None

    @property
    def judge(self) -> str | None:
        """The judge that the task's scorer asks; None where it has rules, or is not known."""
        return self.known_task.judge if self.known_task else None

    @property
    def turns(self) -> int:
        """How many texts the policy may write for one item."""
        tools = self.settings.protocol.tools
        return tools.max_turns if tools and self.known_task and self.known_task.loop else 1

    @property
    def items(self) -> int | None:
        """How many items are asked; None where that is not known before the data are there."""
        asked = self.known_task.asked if self.known_task else None
        n = asked or (self.known.n if self.known else None)
        limit = self.asking.limit
        return n if limit is None else limit if n is None else min(n, limit)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the arm, without ``replay_``."""
        return self.table.options(self.row, self.benchmark, self.arm)

    @property
    def published(self) -> float | None:
        """The paper's number for this arm, in percent."""
        kind = self.table.published
        if kind is None:
            return None
        return table_number(kind, self.settings.pair.policy, self.benchmark, self.arm, self.options)

    @cached_property
    def folder(self) -> Path:
        """Where its files are kept; other settings have another folder."""
        asked = self.run_file() if self.asking.harness == "vlmevalkit" else None
        words = without_keys(self._words(Path(".")))  # another key asks the same judge
        digest = self.settings.fingerprint(words, asked)[:8]
        place = self.asking.output / self.asking.harness / self.row.pair.replace("/", "_")
        return place / self.benchmark / f"{self.arm}-{digest}"

    @property
    def name(self) -> str:
        """The cell in words."""
        return f"{self.row.pair} {self.benchmark} {self.arm}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the command needs beside those that are set."""
        return {name: value for name, value in _WANTED.items() if not os.environ.get(name)}

    @property
    def command(self) -> list[str]:
        """The harness's own command line."""
        module = (
            "replay_adapters.lmms_eval.launcher"
            if self.asking.harness == "lmms-eval"
            else "replay_adapters.vlmevalkit"
        )
        return [sys.executable, "-m", module, *self._words(self.folder)]

    @property
    def shown(self) -> str:
        """The same as a user would type it; a judge's key is a variable in it."""
        program = "lmms_eval" if self.asking.harness == "lmms-eval" else "vlmeval_replay"
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return joined([*variables, program, *without_keys(self._words(self.folder))])

    def _words(self, folder: Path) -> list[str]:
        asking = self.asking
        limit = [] if asking.limit is None else ["--limit", str(asking.limit)]
        if asking.harness == "vlmevalkit":
            words = ["--config", str(folder / "run.json"), "--work-dir", str(folder)]
            return [*words, *limit, *asking.more]
        arguments = {"pair": self.row.pair, **_prefixed(self.options)}
        arguments["replay_journal"] = str(folder / "journal.jsonl")
        typed = ",".join(f"{name}={value}" for name, value in arguments.items())
        words = ["--model", self.table.model, "--model_args", typed, "--tasks", self.task]
        words += ["--output_path", str(folder), "--log_samples"]
        return [*words, "--batch_size", str(asking.batch_size), *limit, *asking.more]

    def run_file(self) -> dict[str, Any]:
        """Return the run file of VLMEvalKit for this cell."""
        assert self.asked.vlmevalkit is not None
        arguments = {"class": self.table.vlmevalkit_class, "pair": self.row.pair}
        model = {**arguments, **_prefixed(self.options)}
        name = f"{Path(self.row.pair).stem}-{self.arm}"
        return {"model": {name: model}, "data": {self.task: self.asked.vlmevalkit.entry()}}


def cells(
    table: RunFile, asking: Asking, *, pairs: Sequence[str] = (), tasks: Sequence[str] = ()
) -> tuple[list[Cell], list[str]]:
    """Return the cells of a table, the baseline of each row first, and what it leaves out and why.

    ``pairs`` and ``tasks`` (benchmarks, or a task's name in the harness) take part of the table.

    Raises:
        UsageError: the table has no such pair or task, or an option of a cell is not allowed.
    """
    _check("--pair", pairs, [row.pair for row in table.rows])
    named = {name: benchmark for benchmark in table.tasks for name in _names(table, benchmark)}
    _check("--tasks", tasks, list(named))
    wanted = {named[task] for task in tasks} or set(table.tasks)
    found, left_out = [], []
    for row in table.rows:
        if pairs and row.pair not in pairs:
            continue
        for benchmark in row.benchmarks or table.tasks:
            if benchmark not in wanted:
                continue
            asked = table.tasks[benchmark]
            if (asked.lmms_eval if asking.harness == "lmms-eval" else asked.vlmevalkit) is None:
                left_out.append(f"{row.pair} {benchmark}: {asking.harness} does not have it")
                continue
            for arm in table.arms:
                options = table.options(row, benchmark, arm)
                try:
                    settings = resolve({"pair": row.pair, **_prefixed(options)})
                except UsageError as error:
                    where = f"{shown(row.pair)} {shown(benchmark)} {shown(arm)}"
                    raise UsageError(f"{where}: {error}") from error
                found.append(Cell(table, row, benchmark, arm, asking, settings))
    return found, left_out


def _names(table: RunFile, benchmark: str) -> set[str]:
    asked = table.tasks[benchmark]
    sets = asked.vlmevalkit.dataset if asked.vlmevalkit else None
    return {name for name in (benchmark, asked.lmms_eval, sets) if name}


def _prefixed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"replay_{name}": value for name, value in options.items()}


def _check(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            allowed = ", ".join(dict.fromkeys(known))
            raise UsageError(
                f"{flag} {shown(name)} is not in the table; {hint}(allowed: {allowed})"
            )
