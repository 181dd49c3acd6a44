"""The ``activation-replay`` command."""

import json
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from replay_adapters import console
from replay_adapters.console import Harness
from replay_adapters.runs import commands as runs
from replay_adapters.studies import commands as studies
from replay_core import UsageError
from replay_core.errors import shown

# Of click, which typer carries a copy of: what its parser says of a wrong command line.
_ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
app.add_typer(studies.app)
app.add_typer(runs.app)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for results, logs and the picture.")] = Path(
        "results/demo"
    ),
    limit: Annotated[int, typer.Option(min=1, help="Number of items.")] = 200,
    everything: Annotated[bool, typer.Option("--all", help="All 1,000 items.")] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    harness: Annotated[Harness, typer.Option(help="Which harness runs it.")] = Harness.LMMS_EVAL,
) -> None:
    """Run two embedded pairs on replay_demo: replay off, on, and with random x as the control.

    demo_narrow is a pair that replay repairs; demo one with nothing to repair.
    """
    from replay_adapters.demo import run_demo

    console.check_output("--output", output)
    typer.echo(run_demo(output, None if everything else limit, batch_size, harness.value))


@app.command()
def pairs(
    name: Annotated[str | None, typer.Argument(help="A shipped pair, or a pair file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: every field.")] = False,
) -> None:
    """List the shipped pairs: name, policy and base; or show one pair whole."""
    from replay_adapters.settings.pairs import pair_names, pair_text, read_pair

    if name is not None:
        one = read_pair(name)
        typer.echo(_json(one.model_dump(mode="json")) if as_json else pair_text(name).rstrip())
        return
    every = [read_pair(shipped) for shipped in pair_names()]
    if as_json:
        typer.echo(_json([pair.model_dump(mode="json") for pair in every]))
        return
    width = max(len(pair.name) for pair in every)
    for pair in every:
        typer.echo(f"{pair.name:<{width}}  {pair.policy}  ←  {pair.base}")


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


@app.command()
def conversation(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of either harness.")],
    task: Annotated[str | None, typer.Option(help="Where the run has several.")] = None,
    document: Annotated[str | None, typer.Option(help="Its number; the first by default.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw boxes and crops into a file.")] = None,
    image: Annotated[Path | None, typer.Option(help="The original image, to draw into.")] = None,
    include_path: Annotated[str | None, typer.Option(help="lmms-eval's, for own tasks.")] = None,
) -> None:
    """List a conversation with a tool: texts, boxes, crops and how each turn was steered.

    Where --picture needs the original image, it is taken from the task's own data, or --image.
    """
    from replay_adapters.runs.conversation import check_picture, conversations, drawn, listing

    if picture is not None:
        check_picture(picture)
    found = conversations(run, task, document)
    for one in found:
        for line in listing(one):
            typer.echo(line)
    if picture is not None:
        from replay_adapters.originals import original_of

        console.quiet_logs()
        whole = original_of(found[0], image, include_path)
        drawn(found[0], whole).save(picture)
        typer.echo(f"drawn: {picture}")


@app.command()
def doctor(
    pair: Annotated[
        str | None, typer.Argument(help="A shipped pair, or a pair file: check it, too.")
    ] = None,
    model_args: Annotated[
        str, typer.Option(help="Options of a run, as replay_step_size=40,dtype=float32.")
    ] = "",
    items: Annotated[
        str | None,
        typer.Option(help="Say how long a data set takes: a number of items, or MathVista …"),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="The picture to ask about; one is drawn without.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; a GPU if there is one, without.")
    ] = None,
) -> None:
    """Compare what is installed with the tested set, and answer one item in each harness.

    With PAIR, load it instead and check what a run relies on, with one prompt: that policy and base
    are compatible, that zero steps are the plain policy bit for bit, that the loss of a self-pair
    is zero and a sample's own falls, what it costs. The exit code is 1 where a line fails.
    """
    from replay_adapters.doctor import examine, examine_pair

    lines = examine() if pair is None else examine_pair(pair, model_args, items, image, device)
    ill = 0
    for line, well in lines:
        typer.echo(line)
        ill += not well
    raise typer.Exit(code=min(ill, 1))


def main() -> None:
    """Run the command; what the user got wrong is one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a model's text may hold what UTF-8 has no bytes for
            stream.reconfigure(errors="backslashreplace")
    console.run(_run)


def _run() -> None:
    try:
        code = app(standalone_mode=False)
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(console.BAD_INPUT)
        raise UsageError(_told(error)) from error
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Any) -> str:
    """Return what a parser says, as one sentence that quotes what was given."""
    cause, option = error.__cause__, getattr(error, "param", None)
    if isinstance(cause, ValidationError) and option is not None:
        detail = cause.errors(include_url=False)[0]
        name = next((one for one in option.opts if one.startswith("--")), str(option.name))
        allowed = detail["msg"].removeprefix("Input should be ").rpartition(" is not one of ")[2]
        return f"{name} {shown(detail['input'])} is not allowed (allowed: {allowed.rstrip('.')})"
    words = str(error.format_message()).split()
    return " ".join(shown(word) for word in words).rstrip(".")


if __name__ == "__main__":
    main()
