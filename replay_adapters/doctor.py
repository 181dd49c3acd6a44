"""Whether this environment can be trusted: versions beside the tested ones, a real answer each."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, requires
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from replay_adapters.settings.resources import resource
from replay_core import UsageError

MISSING = "not installed"

# The package that tells that an extra of ours is in use.
_EXTRAS = {
    "lmms-eval": "lmms-eval",
    "vlmevalkit": "ms-vlmeval",
    "studies": "matplotlib",
    "lora": "peft",
    "quantised": "bitsandbytes",
}

# Why pyproject.toml bounds a package, where that is not plain to see.
_REASONS = {
    "filelock": "lmms-eval 0.7.3 imports filelock._api, which filelock 4 removed",
    "pandas": "ms-vlmeval 0.0.20 scores WeMath with DataFrame._append, which pandas 3.1 removed",
    "transformers": "before 5.18 models take no mm_encoder_outputs",
    "math-verify": "lmms-eval's reasoning scorers cannot import an older one",
    "antlr4-python3-runtime": "beside another one, pip takes a math-verify that cannot be imported",
    "latex2sympy2": "beside another one, pip takes a math-verify that cannot be imported",
}


@dataclass(frozen=True)
class Difference:
    """A package whose installed version is not the tested one.

    ``found`` is ``MISSING`` for a package that is needed and not there; ``tested`` is empty for one
    that the tested set does not hold; ``breaks`` says why it is known to fail, None if it is not.
    """

    package: str
    found: str
    tested: str
    breaks: str | None

    def __str__(self) -> str:
        tested = f" (tested: {self.tested})" if self.tested else ""
        broken = f": known to break: {self.breaks}" if self.breaks else ""
        return f"{self.package:<20}{self.found}{tested}{broken}"


def pinned_versions() -> dict[str, str]:
    """Return package → version of the set that the tests passed with (configs/tested.txt)."""
    lines = (resource("configs") / "tested.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def installed_versions() -> dict[str, str]:
    """Return package → version of everything that this interpreter can import."""
    found: dict[str, str] = {}
    for distribution in distributions():
        found.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution.version)
    return found


def bounds(installed: Mapping[str, str]) -> dict[str, SpecifierSet]:
    """Return package → the versions that this plugin takes, for the extras that are in use."""
    used = ["", *(extra for extra, sign in _EXTRAS.items() if sign in installed)]
    allowed: dict[str, SpecifierSet] = {}
    for line in requires("activation-replay") or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in used):
            name = canonicalize_name(needed.name)
            allowed[name] = allowed.get(name, SpecifierSet()) & needed.specifier
    return allowed


def differences(
    installed: Mapping[str, str], tested: Mapping[str, str], allowed: Mapping[str, SpecifierSet]
) -> Iterator[Difference]:
    """Yield, by name, every package that differs from the tested set or lies outside our bounds.

    Other packages of the tested set that are missing belong to extras that were not asked for.
    """
    for package in sorted({*tested, *allowed}):
        found = installed.get(package, MISSING)
        needed = allowed.get(package)
        if found == MISSING and needed is None:
            continue
        breaks = None
        if needed is not None and (found == MISSING or not needed.contains(found, True)):
            reason = f", as {_REASONS[package]}" if package in _REASONS else ""
            breaks = f"{package}{needed} is needed{reason}"
        if found != tested.get(package, found) or breaks:
            yield Difference(package, found, tested.get(package, ""), breaks)


def answer_in_lmms_eval(folder: Path) -> list[str]:
    """Return the command that answers one demonstration item in lmms-eval."""
    command = [sys.executable, "-m", "replay_adapters.lmms_eval.launcher"]
    command += ["--model", "qwen2_vl_replay", "--tasks", "replay_demo", "--limit", "1"]
    return [*command, "--output_path", str(folder)]


def answer_in_vlmevalkit(folder: Path) -> list[str]:
    """Return the command that answers one demonstration item in VLMEvalKit."""
    from replay_adapters.vlmevalkit.demo import demo_documents, write_set

    write_set(folder / "replay_demo.tsv", demo_documents()[:1])
    command = [sys.executable, "-m", "replay_adapters.vlmevalkit", "--model", "demo-replay"]
    return [*command, "--data", "replay_demo", "--mode", "infer", "--work-dir", str(folder)]


# Imports hide inside of both harnesses' functions, so that only an answer shows that all succeed.
_ANSWER = {"lmms-eval": answer_in_lmms_eval, "ms-vlmeval": answer_in_vlmevalkit}


def failure_of(harness: str) -> str | None:
    """Answer one item of the demonstration in a harness; return why that failed, or None."""
    with TemporaryDirectory() as folder:
        ended = subprocess.run(
            _ANSWER[harness](Path(folder)),
            env={**os.environ, "LMUData": folder, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if ended.returncode == 0:
        return None
    return (ended.stdout.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]


def examine() -> Iterator[tuple[str, bool]]:
    """Yield the report on an installation line by line, and whether each line is well."""
    yield from versions()
    installed = installed_versions()
    for harness in _ANSWER:
        if harness not in installed:
            yield f"{harness:<20}{MISSING}", True
            continue
        failure = failure_of(harness)
        told = f"does not answer: {failure}" if failure else "answers"
        yield f"{harness:<20}{installed[harness]} {told}", failure is None


def versions() -> Iterator[tuple[str, bool]]:
    """Yield what is installed, where it differs from the tested set, and whether that is well."""
    import torch

    installed, tested = installed_versions(), pinned_versions()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none, runs on the CPU"
    facts = {
        "activation-replay": installed["activation-replay"],
        "Python": sys.version.split()[0],
        "GPU": gpu,
        "tasks": resource("tasks"),
        "pairs": resource("configs") / "pairs",
    }
    for name, fact in facts.items():
        yield f"{name:<20}{fact}", True
    found = list(differences(installed, tested, bounds(installed)))
    for difference in found:
        yield str(difference), difference.breaks is None
    pins = resource("configs") / "tested.txt"
    how = f"; pip install --constraint {pins} … takes the tested ones" if found else ""
    yield f"{'tested set':<20}{len(found)} of {len(tested)} packages differ{how}", True


def examine_pair(
    pair: str, options: str, items: str | None, image: Path | None, device: str | None
) -> Iterator[tuple[str, bool]]:
    """Yield the report on a pair line by line, and whether each line is well.

    Raises:
        UsageError: there is no such pair, option, data set or picture.
    """
    import torch

    from replay_adapters.console import quiet_logs
    from replay_adapters.pair_checks import check_pair, items_of

    arguments: dict[str, Any] = {"pair": pair}
    for part in filter(None, re.split(r",(?![^\[]*\])", options)):
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--model-args {options} is not a list of name=value pairs")
        arguments[name.strip()] = value.strip()
    count = None if items is None else items_of(items)
    if image is not None and not image.is_file():
        raise UsageError(f"--image {image} is no file")
    quiet_logs()
    yield from versions()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for check in check_pair(arguments, device=device, items=count, image=image):
        yield str(check), check.well
