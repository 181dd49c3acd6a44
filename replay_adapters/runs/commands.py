"""The commands of ``activation-replay`` that read finished runs."""

from pathlib import Path
from typing import Annotated

import typer

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
