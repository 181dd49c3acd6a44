"""The study commands of ``activation-replay``; each asks one question of a pair and a task."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replay_adapters.studies.asked import Asked, check_twin, study
from replay_adapters.studies.asked import app as app

if TYPE_CHECKING:
    from replay_core.studies.passk import PassKResult

DEMO_DEV = "replay_demo_dev"


@study("metric")
def drift(
    asked: Asked,
    quantiles: Annotated[int, typer.Option(min=2, max=100, help="Entropy quantiles, 5 or 10.")] = 5,
    null_policy: Annotated[
        str | None, typer.Option(help="A checkpoint trained otherwise, as an SFT twin.")
    ] = None,
) -> None:
    """Does the policy drift more where its base was sure? KL by layer and entropy, with nulls."""
    from replay_core.studies.drift import run

    if null_policy is not None:
        check_twin(null_policy)
    bench = asked.bench()
    found = run(
        bench, asked.output, asked.n, quantiles=quantiles, null_policy=null_policy, seed=asked.seed
    )
    typer.echo("\n" + found.told(bench.pair.name, asked.task))
    _done(asked.output, "drift")


@study(n=100)
def perturbation(
    asked: Asked,
    sigmas: Annotated[str, typer.Option(help="Ladder of σ, in the processor's units.")] = (
        "0,0.25,0.5,1,1.5,2"
    ),
    draws: Annotated[int, typer.Option(min=1, help="Noise draws per σ.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Answers sampled per item.")] = 8,
) -> None:
    """Does less low-entropy drift go with right answers that are easier to say? Pixel noise."""
    from replay_core.studies.perturbation import run

    ladder = _numbers(sigmas, "--sigmas", least=0)
    found = asked.of(run, sigmas=ladder, draws=draws, samples=samples)
    typer.echo("\n" + found.told())
    _done(asked.output, "perturbation")


@study()
def intervention(
    asked: Asked,
    positions: Annotated[str, typer.Option(help="visual, input or both.")] = "visual,input",
    boundaries: Annotated[
        str, typer.Option(help="aligned, reference or both.")
    ] = "aligned,reference",
) -> None:
    """Does it help to put the base's activations in place, and which? (Table 1's form)."""
    from replay_core.studies.intervention import BOUNDARIES, POSITIONS, run

    where = _words(positions, "--positions", POSITIONS)
    readings = _words(boundaries, "--boundaries", BOUNDARIES)
    found = asked.of(run, positions=where, boundaries=readings)
    typer.echo("\n" + found.told())
    _done(asked.output, "intervention")


@study(task=DEMO_DEV, n=200)
def grid(
    asked: Asked,
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
) -> None:
    """How much hangs on γ, α and a dynamic threshold? (Table 5's form; choose on a dev split)."""
    from replay_core.studies.grid import run

    rows = _numbers(gammas, "--gammas", above=0, most=1)
    columns = _numbers(alphas, "--alphas", above=0, most=1e12) if alphas.strip() else None
    found = asked.of(run, gammas=rows, alphas=columns, held_out=held_out)
    typer.echo("\n" + found.told())
    _done(asked.output, "grid")


@study("pair", task=DEMO_DEV, n=300)
def amortise(
    asked: Asked,
    pair: Annotated[str, typer.Argument(help="A shipped pair's name or a pair file.")],
    held_out: Annotated[
        int, typer.Option(min=1, help="Documents behind the first n that it is measured on.")
    ] = 200,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the first n.")] = 20,
    width: Annotated[int, typer.Option(min=1, help="Hidden units of the map.")] = 256,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="Adam's largest one.")] = 1e-3,
) -> None:
    """How much of the loop does one forward do? Learns a map from the policy's features to x.

    No answer is read: the replay loss is minimised. The file is for replay_start=FILE, or
    replay_method=amortised.
    """
    from replay_core.studies.amortise import FILE, run

    how = {"held_out": held_out, "epochs": epochs, "width": width, "learning_rate": learning_rate}
    found = replace(asked, pair=pair).of(run, **how)
    typer.echo("\n" + found.told())
    typer.echo(f"\n  replay_start={asked.output / FILE}")
    _done(asked.output, "amortise")


@study(n=200)
def passk(
    asked: Asked,
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="NAME=FOLDER_OR_FILE of logged samples; samples the arms without."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers per document and arm.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.01, max=1000)] = 1.0,
) -> None:
    """Does replay raise Pass@K? Base, policy, + replay, + inject, or any logged samples."""
    from replay_core.studies.passk import run

    if runs:
        found = _passk_of_logs(runs, asked)
    else:
        found = asked.of(run, samples=samples, temperature=temperature)
    typer.echo(found.told())
    _done(asked.output, "passk")


def _passk_of_logs(runs: list[str], asked: Asked) -> "PassKResult":
    from replay_adapters.console import quiet_logs
    from replay_adapters.runs.samples import read_samples
    from replay_core import UsageError
    from replay_core.errors import shown
    from replay_core.studies.passk import report

    asked.check()
    quiet_logs()
    paths = {}
    for run in runs:
        name, separator, path = run.partition("=")
        if name in paths:
            raise UsageError(f"{shown(name)} names two runs (allowed: a name for each)")
        if not separator or not name or not path:
            raise UsageError(
                f"{shown(run)} is not NAME=FOLDER_OR_FILE, as in policy=results/policy"
            )
        paths[name] = path
    how = {"task": asked.task, "metric": asked.metric, "include_path": asked.include_path}
    logged = {name: read_samples(Path(path), **how) for name, path in paths.items()}
    settings = {"runs": paths, "task": asked.task}
    try:
        return report(asked.output, logged, settings, baseline=next(iter(logged)), seed=asked.seed)
    except ValueError as error:
        raise UsageError(f"the runs cannot be compared: {error}") from error


@study("seed", n=100)
def overlay(
    asked: Asked,
    documents: Annotated[
        str, typer.Option(help="Document numbers; those that replay changes most without.")
    ] = "",
    most: Annotated[int, typer.Option(min=1, help="How many pictures, where none is chosen.")] = 4,
) -> None:
    """What was masked, and where does x act? A picture for each chosen item."""
    from replay_core.studies.overlay import run

    listed = _numbers(documents, "--documents", least=0, whole=True) if documents.strip() else []
    chosen = [int(number) for number in listed]
    found = run(asked.bench(), asked.output, asked.n, chosen=chosen, most=most, metric=asked.metric)
    typer.echo("\n" + found.told(asked.output))


@study()
def controls(
    asked: Asked,
    votes: Annotated[
        int | None,
        typer.Option(min=1, help="Votes of self-consistency; what replay's seconds buy without."),
    ] = None,
) -> None:
    """Is a gain replay's own? Zero steps, self-pair, random and shuffled ones, random x, votes."""
    from replay_core.studies.controls import run

    found = asked.of(run, votes=votes)
    typer.echo("\n" + found.told())
    _done(asked.output, "controls")


@study("metric", "seed", task=DEMO_DEV, n=200)
def thresholds(
    asked: Asked,
    offset: Annotated[int, typer.Option(min=0, help="Documents to pass over.")] = 0,
) -> None:
    """Which fixed entropies stand for γ? The mean of γ·max entropy over held-out prompts, by layer.

    The file is for replay_thresholds=FILE.
    """
    from replay_core.studies.thresholds import run

    bench = asked.bench()
    found = run(bench, asked.output, asked.n, offset)
    typer.echo("\n" + found.told(bench.pair.name, asked.task))
    typer.echo(f"\n  replay_thresholds={asked.output / 'thresholds.json'}")


def _done(folder: Path, study: str) -> None:
    files = [f"  {folder / study}.{kind}" for kind in ("csv", "json", "png")]
    typer.echo("\n" + "\n".join(files))


def _numbers(
    text: str,
    option: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = math.inf,
    whole: bool = False,
) -> list[float]:
    """Return the numbers of a list that was typed: distinct ones, at least one, in bounds."""
    from replay_core import UsageError
    from replay_core.errors import shown

    given = f"{option} {shown(text)}"
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{given} is not a list of numbers with commas between") from error
    kind = "whole numbers" if whole else "numbers"
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"from {least:g} on"] if least is not None else []
    bounds += [f"at most {most:g}"] if math.isfinite(most) else []
    fit = all(
        math.isfinite(one)
        and (least is None or one >= least)
        and (above is None or one > above)
        and one <= most
        and (not whole or one.is_integer())
        for one in found
    )
    if not found or not fit or len(set(found)) < len(found):
        raise UsageError(f"{given} is not allowed (allowed: distinct {kind}, {', '.join(bounds)})")
    return found


def _words(text: str, option: str, allowed: tuple[str, ...]) -> list[str]:
    from replay_core import UsageError
    from replay_core.errors import shown

    words = [part.strip() for part in text.split(",") if part.strip()]
    if not words or any(word not in allowed for word in words) or len({*words}) < len(words):
        raise UsageError(f"{option} {shown(text)} is not allowed (allowed: {', '.join(allowed)})")
    return words
