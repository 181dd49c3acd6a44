"""The paper's benchmarks: what each harness calls them, and what their scorers need."""

from functools import cache
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from replay_adapters.settings.answers import Takes
from replay_adapters.settings.resources import resource


class BenchmarkTask(BaseModel):
    """A task of a harness that asks a benchmark's items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    harness: Literal["lmms-eval", "vlmevalkit"]
    metrics: tuple[str, ...] = ()
    """Whose mean over the task's items is the paper's number; none where no metric is of just the
    paper's items."""
    scorer: str = ""
    """What scores an answer: in lmms-eval the function, below ``lmms_eval.tasks``."""
    judge: str | None = None
    """The model or endpoint that the scorer asks (``openai``: any endpoint of that kind); None
    where it has rules."""
    takes: Takes = "text"
    """The form of a final answer that the scorer reads best."""
    right: str = ""
    """How many of how many written answers are scored as a person would."""
    asked: int | None = Field(None, gt=0)
    """How many documents a run asks, where these are more than the paper's items."""
    loop: bool = False
    """Whether it answers the calls of a pair's tool, in a conversation."""
    notes: str = ""
    """The limits of the scorer itself."""


class Benchmark(BaseModel):
    """One column of the paper's tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: str
    """What the paper's number is of."""
    n: int | None = Field(None, gt=0)
    """How many items that is."""
    cluster: tuple[str, ...] = ()
    """Fields of the documents whose equal values ask about the same source, as either harness
    calls it."""
    caution: str | None = None
    """What the paper leaves open."""
    tasks: dict[str, BenchmarkTask]


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return the benchmarks by name, from ``configs/benchmarks.yaml``."""
    text = (resource("configs") / "benchmarks.yaml").read_text(encoding="utf-8")
    return {name: Benchmark(**fields) for name, fields in yaml.safe_load(text).items()}


def benchmark_of(task: str) -> Benchmark | None:
    """Return the benchmark that a task of either harness asks; None for any other task."""
    return next((known for known in benchmarks().values() if task in known.tasks), None)


def form_taken(task: str | None, scorer: str = "") -> Takes:
    """Return the form of a final answer that a task's scorer reads best; text where unknown.

    A task that is not named in the file, as one that includes the harness's own, is known by its
    ``scorer``.
    """
    known = None if task is None else benchmark_of(task)
    if known is not None and task is not None:
        return known.tasks[task].takes
    every = (named for each in benchmarks().values() for named in each.tasks.values())
    forms = {named.takes for named in every if scorer and named.scorer == scorer}
    if forms == {"letter", "option"}:  # MMMU-Pro's, whose vision task wants the bare letter
        return "letter"
    return forms.pop() if len(forms) == 1 else "text"


def answers_calls(task: str) -> bool | None:
    """Return whether a task of either harness answers the calls of a pair's tool; None where that
    is not known."""
    known = benchmark_of(task)
    return None if known is None else known.tasks[task].loop


# Tasks of this package whose questions stand alone, for a pair's prompt to be put around them.
BARE_QUESTIONS = "video_r1_"


def asked_bare(task: str, protocol: str) -> str:
    """Return what to know of such a task that is asked with no prompt around its questions."""
    return (
        f"replay: task {task} leaves its instructions to the pair's prompt, and there is none here "
        f"(replay_protocol={protocol}): its questions are asked bare; pair=video_r1_7b brings "
        "Video-R1's"
    )


def without_loop(task: str, pair: str, tool: str) -> str:
    """Return why a pair whose prompt offers a tool cannot be asked ``task``, and what to do."""
    known = benchmark_of(task)
    instead = [name for name, one in known.tasks.items() if one.loop] if known else []
    named = f"take {' or '.join(instead)}, which does" if instead else "take a task that does"
    return (
        f"task {task} does not answer the tool calls that the prompt of pair={pair} asks for "
        f"({tool}), and its own instructions would contradict that prompt; {named}, or ask in the "
        "task's own prompt with replay_protocol=task"
    )
