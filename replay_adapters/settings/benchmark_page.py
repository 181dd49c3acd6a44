"""The table that says how each benchmark is scored, made from ``configs/benchmarks.yaml``.

``python -m replay_adapters.settings.benchmark_page`` puts it into ``tasks/BENCHMARKS.md``.
"""

from collections.abc import Sequence

from replay_adapters.settings.benchmarks import Benchmark, BenchmarkTask, benchmarks
from replay_adapters.settings.resources import resource

COLUMNS = (
    *("benchmark", "harness", "task", "scorer", "judge", "given as", "right"),
    "limits of the scorer",
)


def table() -> str:
    """Return the table as Markdown, with a line for each task of each harness."""
    rows = [
        _cells(name, benchmark, task, facts)
        for name, benchmark in benchmarks().items()
        for task, facts in benchmark.tasks.items()
    ]
    return "".join(_line(cells) for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows))


def page(before: str) -> str:
    """Return the page with its table as it is now, and what stands ``before`` that one."""
    return before.partition(f"| {COLUMNS[0]} |")[0] + table()


def _cells(name: str, benchmark: Benchmark, task: str, facts: BenchmarkTask) -> list[str]:
    items = f"{name}: {benchmark.items}" + (f" ({benchmark.n:,})" if benchmark.n else "")
    return [
        items if next(iter(benchmark.tasks)) == task else "",
        facts.harness,
        f"`{task}`",
        f"`{facts.scorer}`" if "." in facts.scorer else facts.scorer,
        facts.judge or "–",
        f"`{facts.takes}`",
        facts.right or "–",
        facts.notes,
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    path = resource("tasks") / "BENCHMARKS.md"
    path.write_text(page(path.read_text("utf-8")), "utf-8")
