"""The page that says how each benchmark is scored, made from ``configs/benchmarks.yaml``.

``python -m replay_adapters.settings.benchmark_page`` prints it; it stands in
``tasks/BENCHMARKS.md``.
"""

from replay_adapters.settings.benchmarks import Benchmark, BenchmarkTask, benchmarks

_INTRO = """\
# How the paper's benchmarks are scored

A pair marks its final answer in a format of its own, and most scorers read another one: as it stands,
`<think>…</think><answer>B</answer>` is wrong to them, or right by chance. So a scorer, which stays the harness's own,
gets the final answer alone, in the form that it reads best. Both stand in the record, and `replay_protocol=task`
switches this off. This page is made from [`configs/benchmarks.yaml`](../configs/benchmarks.yaml).

| given as | what the scorer gets |
|---|---|
| `text` | the answer as it stands |
| `letter` | the letter of the option that the answer names; any other answer as it stands |
| `option` | `(B)`; an answer that names no letter in a sentence, in which the scorer looks for the words of an option |
| `boxed` | `\\boxed{B}`, or the answer in such a box; numbers in LaTeX between dollars, as math_verify wants them |

**Right** says how many of 24 written answers are scored as a person would: letters, boxes, tags, fractions, units and
sentences, right and wrong ones, cut reasonings, tool calls in place of an answer, and no answer at all. The tests write
them to each task, and put them through the harness's own command line. Without a figure, a judge decides.

**Judge** `openai` is any OpenAI-compatible endpoint; a run without it is refused before anything is answered.

| benchmark | harness | task | scorer | judge | given as | right | limits of the scorer |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown, with a line for each task of each harness."""
    rows = [
        _row(name, benchmark, task, facts)
        for name, benchmark in benchmarks().items()
        for task, facts in benchmark.tasks.items()
    ]
    return _INTRO + "\n".join(rows) + "\n"


def _row(name: str, benchmark: Benchmark, task: str, facts: BenchmarkTask) -> str:
    first = next(iter(benchmark.tasks)) == task
    items = f"{name}: {benchmark.items}" + (f" ({benchmark.n:,})" if benchmark.n else "")
    cells = [
        items if first else "",
        facts.harness,
        f"`{task}`",
        f"`{facts.scorer}`" if "." in facts.scorer else facts.scorer,
        facts.judge or "–",
        f"`{facts.takes}`",
        facts.right or "–",
        facts.notes,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
