"""The study commands of ``activation-replay``; each asks one question of a pair and a task."""

from pathlib import Path
from typing import Annotated, Any

import typer

PAIR = typer.Option(help="A shipped pair's name or a pair file; the embedded pair without.")
ARGS = typer.Option(help="More of lmms-eval's --model_args, as replay_threshold=0.2,max_pixels=…")
TASK = typer.Option(help="An lmms-eval task (generate_until).")
LIMIT = typer.Option("--n", min=1, help="Number of documents; all without.")
OUTPUT = typer.Option(help="Folder for tables, JSON, figures and the rows that resume needs.")
BATCH = typer.Option(min=1, help="Documents in one batch.")
METRIC = typer.Option(help="The task's metric to take; its first one without.")
MODEL = typer.Option(help="The plugin's model name, as in lmms_eval --model.")
DEVICE = typer.Option(help="cpu, cuda, cuda:1 …; a GPU if there is one, without.")
INCLUDE = typer.Option(help="A folder with further tasks.")
SEED = typer.Option(min=0, help="Seed of noise, draws and resampling.")

Pair = Annotated[str | None, PAIR]
Args = Annotated[str, ARGS]
Task = Annotated[str, TASK]
Limit = Annotated[int | None, LIMIT]
Output = Annotated[Path, OUTPUT]
Batch = Annotated[int, BATCH]
Metric = Annotated[str | None, METRIC]
Model = Annotated[str, MODEL]
Device = Annotated[str | None, DEVICE]
Include = Annotated[str | None, INCLUDE]
Seed = Annotated[int, SEED]

DEMO_DEV = "replay_demo_dev"
DEMO, RESULTS, NAME = "replay_demo", Path("results/studies"), "qwen2_vl_replay"


def _source(
    pair: str | None,
    model_args: str,
    task: str,
    batch_size: int,
    model: str,
    device: str | None,
    include_path: str | None,
) -> Any:
    from replay_adapters.lmms_eval.bench import LmmsEvalBench

    quiet_logs()
    named = [f"pair={pair}"] if pair else []
    arguments = ",".join([*named, *([model_args] if model_args else [])])
    return LmmsEvalBench(
        arguments,
        task,
        batch_size=batch_size,
        model=model,
        device=device,
        include_path=include_path,
    )


def quiet_logs() -> None:
    """Show warnings and errors only: a study has a progress bar of its own."""
    import sys

    import transformers
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    transformers.utils.logging.disable_progress_bar()


def _numbers(text: str, option: str) -> list[float]:
    from replay_core import UsageError

    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{option} {text} is not a list of numbers with commas between") from error


def _done(folder: Path, study: str) -> None:
    files = [f"{study}.csv", f"{study}.json", f"{study}.png"]
    typer.echo("\n" + "\n".join(f"  {folder / name}" for name in files))


def drift(
    pair: Pair = None,
    task: Task = DEMO,
    n: Limit = None,
    output: Output = RESULTS,
    quantiles: Annotated[int, typer.Option(min=2, help="Entropy quantiles, 5 or 10.")] = 5,
    null_policy: Annotated[
        str | None, typer.Option(help="A checkpoint trained otherwise, as an SFT twin.")
    ] = None,
    model_args: Args = "",
    batch_size: Batch = 8,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
    seed: Seed = 0,
) -> None:
    """Does the policy drift more where its base was sure? KL by layer and entropy, with nulls."""
    from replay_core.studies.drift import run

    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run(source, output, n, quantiles=quantiles, null_policy=null_policy, seed=seed)
    typer.echo("\n" + found.told(source.pair.name, task))
    _done(output, "drift")


def perturbation(
    pair: Pair = None,
    task: Task = DEMO,
    n: Limit = 100,
    output: Output = RESULTS,
    sigmas: Annotated[str, typer.Option(help="Ladder of σ, in the processor's units.")] = (
        "0,0.25,0.5,1,1.5,2"
    ),
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per σ.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Answers sampled per item.")] = 8,
    model_args: Args = "",
    batch_size: Batch = 8,
    metric: Metric = None,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
    seed: Seed = 0,
) -> None:
    """Does less low-entropy drift go with right answers that are easier to say? Pixel noise."""
    from replay_core.studies.perturbation import run

    ladder = _numbers(sigmas, "--sigmas")
    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run(
        source,
        output,
        n,
        sigmas=ladder,
        draws=draws,
        samples=samples,
        metric=metric,
        seed=seed,
    )
    typer.echo("\n" + found.told())
    _done(output, "perturbation")


def intervention(
    pair: Pair = None,
    task: Task = DEMO,
    n: Limit = None,
    output: Output = RESULTS,
    positions: Annotated[str, typer.Option(help="visual, input or both.")] = "visual,input",
    boundaries: Annotated[str, typer.Option(help="aligned, reference or both.")] = (
        "aligned,reference"
    ),
    model_args: Args = "",
    batch_size: Batch = 8,
    metric: Metric = None,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
    seed: Seed = 0,
) -> None:
    """Does it help to put the base's activations in place, and which? (Table 1's form)."""
    from replay_adapters.studies.answered import run_intervention
    from replay_core.studies.intervention import BOUNDARIES, POSITIONS

    where = _words(positions, "--positions", POSITIONS)
    readings = _words(boundaries, "--boundaries", BOUNDARIES)
    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run_intervention(
        source, output, n, metric=metric, positions=where, boundaries=readings, seed=seed
    )
    _tell_arms(found, output, "intervention")


def controls(
    pair: Pair = None,
    task: Task = DEMO,
    n: Limit = None,
    output: Output = RESULTS,
    votes: Annotated[
        int | None,
        typer.Option(min=1, help="Votes of self-consistency; what replay's seconds buy without."),
    ] = None,
    model_args: Args = "",
    batch_size: Batch = 8,
    metric: Metric = None,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
    seed: Seed = 0,
) -> None:
    """Is a gain replay's own? Zero steps, self-pair, random and shuffled ones, random x, votes."""
    from replay_adapters.studies.answered import run_controls

    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run_controls(source, output, n, metric=metric, votes=votes, seed=seed)
    _tell_arms(found, output, "controls")


def grid(
    pair: Pair = None,
    task: Task = "replay_demo_dev",
    n: Limit = 200,
    output: Output = RESULTS,
    gammas: Annotated[str, typer.Option(help="Values of γ.")] = "0.2,0.4,0.7",
    alphas: Annotated[
        str, typer.Option(help="Values of α; the published and the pair's own scale without.")
    ] = "",
    held_out: Annotated[
        int,
        typer.Option(
            min=0,
            help="Documents behind the first n that give the fixed thresholds (their mean γ·max).",
        ),
    ] = 50,
    model_args: Args = "",
    batch_size: Batch = 8,
    metric: Metric = None,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
    seed: Seed = 0,
) -> None:
    """How much hangs on γ, α and a dynamic threshold? (Table 5's form; choose on a dev split)."""
    from replay_adapters.studies.answered import run_grid

    rows, columns = _numbers(gammas, "--gammas"), _numbers(alphas, "--alphas") or None
    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run_grid(
        source,
        output,
        n,
        gammas=rows,
        alphas=columns,
        held_out=held_out,
        metric=metric,
        seed=seed,
    )
    _tell_arms(found["cells"], output, "grid")


def passk(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="NAME=FOLDER_OR_FILE of logged samples; samples the arms without."),
    ] = None,
    pair: Pair = None,
    task: Task = DEMO,
    n: Limit = 200,
    output: Output = RESULTS,
    samples: Annotated[int, typer.Option(min=1, help="Answers per document and arm.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    model_args: Args = "",
    batch_size: Batch = 8,
    metric: Metric = None,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
    seed: Seed = 0,
) -> None:
    """Does replay raise Pass@K? Base, policy, + replay, + inject, or any logged samples."""
    from replay_adapters.studies.answered import run_passk

    if runs:
        found = _passk_of_logs(runs, task, output, metric, include_path, seed)
    else:
        source = _source(pair, model_args, task, batch_size, model, device, include_path)
        found = run_passk(
            source,
            output,
            n,
            samples=samples,
            temperature=temperature,
            metric=metric,
            seed=seed,
        )
    for arm, curve in found.items():
        shown = [curve[k] for k in ("1", "2", "4", "8", "16") if k in curve]
        text = "  ".join(
            f"@{r['k']} {r['pass']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in shown
        )
        typer.echo(f"  {arm:<18}{text}")
    _done(output, "passk")


def _passk_of_logs(
    runs: list[str],
    task: str,
    output: Path,
    metric: str | None,
    include_path: str | None,
    seed: int,
) -> dict[str, Any]:
    from replay_adapters.runs.samples import read_samples
    from replay_adapters.studies.answered import write_passk
    from replay_core import UsageError

    quiet_logs()
    logged = {}
    for run in runs:
        name, separator, path = run.partition("=")
        if not separator:
            raise UsageError(f"{run} is not NAME=FOLDER_OR_FILE, as in policy=results/policy")
        logged[name] = read_samples(Path(path), task=task, metric=metric, include_path=include_path)
    first = next(iter(logged))
    settings = {"runs": dict(run.split("=", 1) for run in runs), "task": task}
    try:
        return write_passk(output, logged, settings, baseline=first, seed=seed)
    except ValueError as error:
        raise UsageError(f"the runs cannot be compared: {error}") from error


def compare(
    run_a: Annotated[Path, typer.Argument(help="The baseline's folder.")],
    run_b: Annotated[Path, typer.Argument(help="The other run's folder.")],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task (may be given again).")
    ] = None,
    metric: Metric = None,
    cluster: Annotated[
        str | None, typer.Option(help="Items that belong together: question, or a field's name.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for table, JSON, figure.")] = None,
    seed: Seed = 0,
) -> None:
    """Did the second run really do better? Two runs of lmms-eval or VLMEvalKit, item by item."""
    from replay_adapters.runs.compare import compare_runs, row_of, told
    from replay_core.studies.plots import draw_compare
    from replay_core.studies.report import write_study

    found = compare_runs(run_a, run_b, tasks=task or (), metric=metric, cluster=cluster, seed=seed)
    typer.echo("\n\n".join(told(one) for one in found))
    if output is not None:
        rows = [row_of(one) for one in found]
        settings = {"a": str(run_a), "b": str(run_b), "cluster": cluster}
        findings = {row["task"]: row for row in rows}
        write_study(output, "compare", settings=settings, table=rows, findings=findings, seed=seed)
        draw_compare(output / "compare.png", rows, (run_a.name, run_b.name))
        _done(output, "compare")


def overlay(
    pair: Pair = None,
    task: Task = DEMO,
    documents: Annotated[
        str, typer.Option(help="Document numbers; those that replay changes most without.")
    ] = "",
    n: Limit = 100,
    output: Output = RESULTS,
    most: Annotated[int, typer.Option(min=1, help="How many pictures, where none is chosen.")] = 4,
    model_args: Args = "",
    batch_size: Batch = 8,
    metric: Metric = None,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
) -> None:
    """What was masked, and where does x act? A picture for each chosen item."""
    from replay_core.studies.overlay import run

    chosen = [int(number) for number in _numbers(documents, "--documents")]
    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run(source, output, n, chosen=chosen, most=most, metric=metric)
    typer.echo("\n" + found.told(output))


def thresholds(
    pair: Pair = None,
    task: Task = DEMO_DEV,
    n: Limit = 200,
    offset: Annotated[int, typer.Option(min=0, help="Documents to pass over.")] = 0,
    output: Output = RESULTS,
    model_args: Args = "",
    batch_size: Batch = 8,
    model: Model = NAME,
    device: Device = None,
    include_path: Include = None,
) -> None:
    """Which fixed entropies stand for γ? The mean of γ·max entropy over held-out prompts, by layer.

    The file is for replay_thresholds=FILE.
    """
    from replay_core.studies.thresholds import run

    source = _source(pair, model_args, task, batch_size, model, device, include_path)
    found = run(source, output, n, offset)
    typer.echo("\n" + found.told(source.pair.name, task))
    typer.echo(f"\n  replay_thresholds={output / 'thresholds.json'}")


def _words(text: str, option: str, allowed: tuple[str, ...]) -> list[str]:
    from replay_core import UsageError

    words = [part.strip() for part in text.split(",") if part.strip()]
    if not words or any(word not in allowed for word in words):
        raise UsageError(f"{option} {text} is not allowed (allowed: {', '.join(allowed)})")
    return words


def _tell_arms(rows: dict[str, Any], output: Path, study: str) -> None:
    from replay_adapters.studies.answered import ARM_COLUMNS, table_text

    typer.echo("\n" + table_text(list(rows.values()), ARM_COLUMNS))
    _done(output, study)


def add_to(app: typer.Typer) -> None:
    """Add every study as a command of ``app``."""
    for study in (
        drift,
        perturbation,
        intervention,
        grid,
        passk,
        compare,
        overlay,
        controls,
        thresholds,
    ):
        app.command()(study)
