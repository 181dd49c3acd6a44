"""The options that every study has on the command line, and what makes a command of a study."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from replay_adapters.lmms_eval.bench import LmmsEvalBench

DEMO = "replay_demo"
METRIC = typer.Option(help="The task's metric to take; its first one without.")
SEED = typer.Option(min=0, help="Seed of noise, draws and resampling.")


@dataclass(frozen=True)
class Asked:
    """What every study is asked on the command line: of which pair, on what, and how."""

    pair: Annotated[
        str | None,
        typer.Option(help="A shipped pair's name or a pair file; the embedded pair without."),
    ] = None
    task: Annotated[str, typer.Option(help="An lmms-eval task (generate_until).")] = DEMO
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of documents; all without.")
    ] = None
    output: Annotated[
        Path,
        typer.Option(help="Folder for tables, JSON, figures and the rows that resume needs."),
    ] = Path("results/studies")
    model_args: Annotated[
        str,
        typer.Option(help="More of lmms-eval's --model_args, as replay_threshold=0.2,max_pixels=…"),
    ] = ""
    batch_size: Annotated[int, typer.Option(min=1, help="Documents in one batch.")] = 8
    metric: Annotated[str | None, METRIC] = None
    model: Annotated[
        str, typer.Option(help="The plugin's model name, as in lmms_eval --model.")
    ] = "qwen2_vl_replay"
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; a GPU if there is one, without.")
    ] = None
    include_path: Annotated[str | None, typer.Option(help="A folder with further tasks.")] = None
    seed: Annotated[int, SEED] = 0

    def bench(self) -> "LmmsEvalBench":
        """Return the pair and the task, loaded.

        Raises:
            UsageError: bad options, an unknown task, or one that does not ask for free text.
        """
        from replay_adapters.console import quiet_logs
        from replay_adapters.lmms_eval.bench import LmmsEvalBench

        self.check()
        quiet_logs()
        named = [f"pair={self.pair}"] if self.pair else []
        return LmmsEvalBench(
            ",".join([*named, *([self.model_args] if self.model_args else [])]),
            self.task,
            batch_size=self.batch_size,
            model=self.model,
            device=self.device,
            include_path=self.include_path,
            metric=self.metric,
        )

    def check(self) -> None:
        """Check what needs neither pair nor task: where to write, and where tasks lie.

        Raises:
            UsageError: a file stands in the place of a folder, or there is none.
        """
        from replay_adapters.console import check_output
        from replay_core import UsageError
        from replay_core.errors import shown

        check_output("--output", self.output)
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise UsageError(f"--include-path {shown(self.include_path)} is no folder")

    def of(self, run: Callable[..., Any], **own: Any) -> Any:
        """Return what a study that compares answers finds, with its own options."""
        return run(self.bench(), self.output, self.n, **own, metric=self.metric, seed=self.seed)


def check_twin(checkpoint: str) -> None:
    """Check, by its small files and headers, a checkpoint that a study loads beside the pair.

    Raises:
        UsageError: it cannot be loaded.
    """
    from replay_core.pair.loading import load_config
    from replay_core.pair.weight_files import check_weights

    load_config(checkpoint)
    check_weights(Path(checkpoint))


app = typer.Typer()
Study = Callable[..., None]


def study(*without: str, **defaults: Any) -> Callable[[Study], Study]:
    """Return a decorator that makes a command of a study, with the options of :class:`Asked`.

    The study takes these as its first argument, and its own options by name. ``without`` are names
    of ``Asked`` that it does not have, ``defaults`` its own defaults of others.
    """

    def register(asking: Study) -> Study:
        common = [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=defaults.get(field.name, field.default),
                annotation=field.type,
            )
            for field in fields(Asked)
            if field.name not in without
        ]
        _, *own = signature(asking).parameters.values()

        def command(**given: Any) -> None:
            asked = Asked(**{one.name: given.pop(one.name) for one in common})
            asking(asked, **given)

        # The study's own options stand behind --output in the help.
        ordered = [*common[:4], *own, *common[4:]]
        command.__signature__ = Signature(  # type: ignore[attr-defined]
            [one.replace(kind=Parameter.KEYWORD_ONLY) for one in ordered]
        )
        command.__annotations__ = {one.name: one.annotation for one in ordered}
        app.command(asking.__name__, help=asking.__doc__)(command)
        return asking

    return register
