"""Every study on the embedded pairs, and the results page that is filled from what they wrote.

``python configs/pairs/demo/results.py`` (``make results``) measures each pair in a process of
its own, resumes where it was stopped, and writes RESULTS.md and the figures beside it.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from chosen import run_chosen
from page import write_page

from replay_adapters.settings.pairs import pair_names
from replay_core import UsageError

HERE = Path(__file__).resolve().parent
PAIRS = ("demo", "demo_narrow", "demo_drifted")
TEST, DEV = "replay_demo", "replay_demo_dev"
TWINS = ("sft", "sft_twin", "twin")
FIGURES = ("drift", "perturbation", "intervention", "grid", "controls", "passk")


def measure(
    pair: str,
    folder: Path,
    n: int,
    batch_size: int,
    twin: str | None,
    pass_items: int = 200,
    grid_items: int = 150,
) -> None:
    """Run every study of one pair; rows that are there already are kept."""
    from replay_adapters.console import quiet_logs
    from replay_adapters.lmms_eval.bench import LmmsEvalBench
    from replay_core.studies import (
        controls,
        drift,
        grid,
        intervention,
        overlay,
        passk,
        perturbation,
    )

    quiet_logs()
    dev = LmmsEvalBench(f"pair={pair}", DEV, batch_size=batch_size)
    cells = grid.run(dev, folder, min(grid_items, n))
    del dev
    test = LmmsEvalBench(f"pair={pair}", TEST, batch_size=batch_size)
    run_chosen(test, folder, n, cells)
    controls.run(test, folder, n)
    intervention.run(test, folder, n)
    drift.run(test, folder, min(300, n), null_policy=twin or _twin(pair))
    perturbation.run(test, folder, min(100, n))
    passk.run(test, folder, min(pass_items, n))
    overlay.run(test, folder, min(200, n), most=3)


def _twin(pair: str) -> str | None:
    """Return the checkpoint that was trained as long without RL, where the pair has one."""
    folders = [HERE.parent / pair / name for name in TWINS]
    found = [folder for folder in folders if (folder / "config.json").is_file()]
    return str(found[0]) if found else None


def main(
    only: Annotated[str, typer.Option(help="Measure this pair here, and write no page.")] = "",
    n: Annotated[int, typer.Option(min=10, help="Documents of the test split.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1)] = 50,
    work: Annotated[Path, typer.Option(help="Tables, JSON and rows.")] = Path("results/studies"),
    output: Annotated[
        Path | None, typer.Option(help="Where RESULTS.md goes; the demo pair's folder without.")
    ] = None,
    twin: Annotated[
        str | None, typer.Option(help="An SFT twin for drift; found beside the pair without.")
    ] = None,
    pass_items: Annotated[int, typer.Option(min=1, help="Documents of Pass@K.")] = 200,
    grid_items: Annotated[int, typer.Option(min=1, help="Documents of the grid.")] = 150,
) -> None:
    """Measure the embedded pairs and write the results page with its figures."""
    if only:
        measure(only, work / only, n, batch_size, twin, pass_items, grid_items)
        return

    pairs = [name for name in PAIRS if name in pair_names()]
    sizes = ["--n", str(n), "--batch-size", str(batch_size), "--work", str(work)]
    sizes += ["--pass-items", str(pass_items), "--grid-items", str(grid_items)]
    sizes += ["--twin", twin] if twin else []
    started = time.time()
    _all(pairs, sizes, work)
    target = output or HERE
    for pair in pairs:
        _copy_figures(work / pair, target / "results", pair)
    minutes = (time.time() - started) / 60
    folders = {pair: work / pair for pair in pairs}
    page = write_page(target / "RESULTS.md", folders, sizes)
    typer.echo(f"{page} written after {minutes:.0f} minutes")


def _all(pairs: list[str], sizes: list[str], work: Path) -> None:
    """Measure all pairs side by side, each in a process with a log of its own.

    Raises:
        UsageError: one of them failed; the sentence names its log.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    running = []
    for pair in pairs:
        folder = work / pair
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "results.log"
        command = [sys.executable, str(HERE / "results.py"), "--only", pair, *sizes]
        typer.echo(f"$ {' '.join(command[1:])}  (log: {log})")
        with log.open("w", encoding="utf-8") as out:
            running.append(
                (pair, log, subprocess.Popen(command, stdout=out, stderr=out, env=environment))
            )
    failed = [(pair, log) for pair, log, process in running if process.wait()]
    if failed:
        logs = ", ".join(f"{pair}: {log}" for pair, log in failed)
        raise UsageError(f"not every study ended well; see the logs ({logs})")


def _copy_figures(source: Path, target: Path, pair: str) -> None:
    """Copy one pair's figures beside the page, the old ones removed."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(f"{pair}.*.png"):
        old.unlink()
    for figure in sorted(source.glob("*.png")):
        if figure.stem in FIGURES or figure.stem.startswith("overlay_"):
            shutil.copyfile(figure, target / f"{pair}.{figure.name}")


if __name__ == "__main__":
    from replay_adapters.console import run

    run(lambda: typer.run(main))
