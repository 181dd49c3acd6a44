"""The commands of ``activation-replay`` that make runs, and read finished ones."""

import math
from pathlib import Path
from typing import Annotated

import typer

from replay_adapters.console import Harness, check_output
from replay_core import UsageError
from replay_core.errors import shown

app = typer.Typer()


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="The baseline's folder.")],
    run_b: Annotated[Path, typer.Argument(help="The other run's folder.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task (may be given again).")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="The task's metric; without, the one that the paper's number is of."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Items that belong together: question, a field's name, or none; what is known of "
            "the benchmark without."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for table, JSON, figure.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
) -> None:
    """Did the second run really do better? Two runs of lmms-eval or VLMEvalKit, item by item."""
    from replay_adapters.runs.compare import compare_runs
    from replay_adapters.runs.summary import summary_line, summary_table
    from replay_adapters.runs.tables import row_of, told
    from replay_core.studies.figures import draw_compare
    from replay_core.studies.report import write_study

    if output is not None:
        check_output("--output", output)
    found = compare_runs(run_a, run_b, tasks=task or (), metric=metric, cluster=cluster, seed=seed)
    typer.echo("\n\n".join(told(one) for one in found))
    typer.echo("\n" + summary_table([summary_line(one) for one in found]))
    if output is not None:
        rows = [row_of(one).fields() for one in found]
        settings = {"a": str(run_a), "b": str(run_b), "cluster": cluster}
        findings = {row["task"]: row for row in rows}
        write_study(output, "compare", settings=settings, table=rows, findings=findings, seed=seed)
        draw_compare(output / "compare.png", rows, (run_a.name, run_b.name))
        files = [f"  {output / 'compare'}.{kind}" for kind in ("csv", "json", "png")]
        typer.echo("\n" + "\n".join(files))


@app.command()
def submission(
    runs: Annotated[list[Path], typer.Argument(help="Folders of steered runs and of their twins.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle; it must not exist yet.")],
    name: Annotated[
        str | None, typer.Option(help="The policy's name on leaderboards; the pair's without.")
    ] = None,
) -> None:
    """Bundle what others need to check a result, in the forms that leaderboards take.

    Every run needs its twin, the same settings with the policy alone; the refusal of one without
    holds the command that makes it.
    """
    from replay_adapters.runs.submission import submit
    from replay_adapters.runs.summary import summary_line, summary_table

    made = submit(runs, output, name=name)
    typer.echo(f"{made.name}\n\n{summary_table([summary_line(one.found) for one in made.entries])}")
    for remark in [*map(str, made.cut), *(f"a secret was taken out of {p}" for p in made.removed)]:
        typer.echo(remark)
    typer.echo(f"\n  {output / 'README.md'}")


@app.command()
def run(
    table: Annotated[str, typer.Argument(help="table1 to table5, or a run file of your own.")],
    pair: Annotated[list[str] | None, typer.Option(help="Only this pair (again for more).")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Only this benchmark or task (again for more).")
    ] = None,
    harness: Annotated[Harness, typer.Option()] = Harness.LMMS_EVAL,
    output: Annotated[Path, typer.Option(help="Folder for all cells.")] = Path("results/runs"),
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each benchmark.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="In lmms-eval.")] = 1,
    harness_args: Annotated[
        str, typer.Option(help="Passed on to every command line, as --harness-args '--judge x'.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be run.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report", help="Only the table, of what is finished.")
    ] = False,
    tflops: Annotated[float, typer.Option(min=0.1, help="For the estimate.")] = 300.0,
    bandwidth: Annotated[float, typer.Option(min=1, help="GB/s, for the estimate.")] = 2000.0,
    memory_gb: Annotated[
        float | None, typer.Option(min=1, help="Name the cells that may need more, in a dry run.")
    ] = None,
) -> None:
    """Measure one of the paper's tables, cell by cell, and lay it beside the published numbers.

    A run that was stopped goes on where it was; a cell that failed does not stop the others. The
    exit code is 1 while a cell is not finished.
    """
    import shlex

    from replay_adapters.runs.estimate import Rates
    from replay_adapters.runs.execute import damage, run_cells, state
    from replay_adapters.runs.plan import Asking, cells
    from replay_adapters.runs.table import planned, report
    from replay_adapters.settings.run_files import read_run_file

    check_output("--output", output)
    for flag, number in (("tflops", tflops), ("bandwidth", bandwidth), ("memory-gb", memory_gb)):
        if number is not None and not math.isfinite(number):
            raise UsageError(f"--{flag} {number} is not allowed (allowed: a finite number)")
    try:
        more = tuple(shlex.split(harness_args))
    except ValueError as error:
        raise UsageError(
            f"--harness-args {shown(harness_args)} is no part of a command line ({error})"
        ) from error
    asked = Asking(harness.value, output, limit, batch_size, more)
    file = read_run_file(table)
    found, left_out = cells(file, asked, pairs=pair or (), tasks=tasks or ())
    typer.echo("\n".join([file.title, *left_out, ""]))
    if dry_run:
        typer.echo(planned(found, Rates(tflops, bandwidth), memory_gb))
        return
    failures = [] if report_only else run_cells(found, lambda line: print(line, flush=True))
    typer.echo("\n" + report(found))
    done = sum(state(cell) == "done" for cell in found)
    typer.echo(f"\n{done} of {len(found)} cells are done")
    told = {failure.cell.name for failure in failures}
    for cell in found:
        if (why := damage(cell)) and cell.name not in told:
            typer.echo(f"  {cell.name}: was done, but has to be run again: {why}")
    for failure in failures:
        typer.echo(f"  {failure.cell.name}: {failure.why}\n    $ {failure.cell.shown}")
    if done < len(found) and not report_only:
        raise typer.Exit(code=1)
