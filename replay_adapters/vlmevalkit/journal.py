"""Answers and records beside a dataset's predictions, written sample by sample.

Below the harness's folder of a model stands ``replay/``:

- ``settings.json``: the settings, weights and versions that all predictions of the folder have;
- ``DATASET.jsonl``: one line per sample, in the dataset's order::

      {"index": 3, "predictions": ["…", …], "replay": [{record}, …], "scores": [1.0, …]}

  with one entry per repeat in each list (K with ``samples=K``; the first prediction is the one in
  the harness's own file, where an empty one is a blank). ``scores`` is there where the harness's
  scorer tells hits item by item.
- ``DATASET.totals.json``: settings, versions and what the records add up to;
- ``DATASET.rows.json``: how many rows were asked, and which of them have no answer.

In a conversation ``replay`` has a record of each turn, those of the first repeat first. While a run
goes, every process appends to ``DATASET.RANKofWORLD.part``, so that a killed run loses no finished
sample; and to ``….turns``, so that it loses no finished turn of one that is not.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from replay_adapters.session.records import report, totals
from replay_adapters.session.session import current
from replay_adapters.settings.places import check_folder
from replay_adapters.vlmevalkit.partials import plain, read_partial, write_partial
from replay_adapters.vlmevalkit.planned import Planned
from replay_adapters.vlmevalkit.turns import TurnLine, Turns
from replay_core import UsageError
from replay_core.errors import sentence
from replay_core.errors import shown as shown_text
from replay_core.jsonl import Line, Sealed, numbered_lines, read_sealed, replace_text
from replay_core.record import lasting

_STAMP = "settings.json"


def shown(answer: str) -> str:
    """Return an answer as the harness's predictions file has it: a blank for an empty one.

    An empty cell of that file is read back as NaN, on which several scorers fail (WeMath's and
    MLVU_MCQ's among them); they count a blank as wrong.
    """
    return answer or " "


class SampleLine(BaseModel):
    """What is kept of one sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int | float | str
    predictions: list[str]
    replay: list[dict[str, Any]]


class FinishedLine(SampleLine):
    """What a finished dataset's file has of one sample."""

    scores: list[float] | None = None


class Journal:
    """One model's answers on one dataset, over all processes and restarts."""

    def __init__(self, folder: Path, dataset: str, rank: int = 0, world: int = 1) -> None:
        self.folder, self.dataset = folder / "replay", dataset
        self._file = Sealed(self.folder / f"{dataset}.{rank}of{world}.part", SampleLine)
        self.turns = Turns(self.folder, dataset, rank, world)

    @property
    def file(self) -> Path:
        """The finished dataset's file."""
        return self.folder / f"{self.dataset}.jsonl"

    def check_settings(self, fingerprint: str, settings: Line) -> None:
        """Stamp the folder with what made its predictions, or compare it with its stamp.

        Raises:
            UsageError: the folder's predictions were made with other settings.
        """
        if not _stamped(self.folder, fingerprint):
            write_json(self.folder / _STAMP, {"fingerprint": fingerprint, **settings})

    def add(self, line: Line) -> None:
        """Keep one sample's line; it is on disk when this returns."""
        self._file.add(line)

    def begun(self) -> dict[Any, Line]:
        """Return index → line of the samples that unfinished runs have answered for good."""
        return {index: line for index, line in self._appended() if _lasts(line)}

    def passing(self) -> set[Any]:
        """Return the samples whose answer depended on the moment: they are to be answered again."""
        return {index for index, line in self._known().items() if not _lasts(line)}

    def lines(self) -> list[Line]:
        """Return what all runs have answered so far, finished or not."""
        return list(self._known().values())

    def _appended(self) -> list[tuple[Any, Line]]:
        found: dict[Any, Line] = {}
        lines = []
        for part in self._parts():
            for number, line in read_sealed(part, SampleLine):
                lines.append((line["index"], line))
                if not _lasts(line):
                    continue
                before = found.setdefault(line["index"], line)
                if before["predictions"] != line["predictions"]:
                    raise UsageError(
                        f"{part}, line {number} has other answers than an earlier line to sample "
                        f"{line['index']}; delete one of the two"
                    )
        return lines

    def _known(self) -> dict[Any, Line]:
        finished = {line["index"]: line for line in self._finished()}
        return finished | dict(self._appended()) | self.begun()

    def _finished(self) -> Iterator[Line]:
        for number, text in numbered_lines(self.file):
            try:
                line = json.loads(text)
                FinishedLine.model_validate(line)
            except (ValueError, RecursionError) as error:
                invalid = isinstance(error, ValidationError)
                why = sentence(error, FinishedLine) if invalid else f"it is not JSON: {error}"
                raise UsageError(
                    f"{self.file}, line {number}: {why}; move the file away"
                ) from error
            yield line

    def finish(self, order: Iterable[Any]) -> list[Line]:
        """Put the parts of all processes into the dataset's file; return its lines.

        ``order`` are the indices of the dataset. A line of an earlier run stays where the sample
        was not answered anew.
        """
        known = self._known()
        lines = [known[index] for index in map(plain, order) if index in known]
        self.rewrite(lines)
        for part in self._parts():
            part.unlink()
        self.turns.drop()
        return lines

    def rewrite(self, lines: Iterable[Line]) -> None:
        """Replace the dataset's file by ``lines``."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_text(self.file, text)

    def _parts(self) -> list[Path]:
        return sorted(
            path
            for path in self.folder.glob("*.part")
            if path.name.removesuffix(".part").rpartition(".")[0] == self.dataset
        )


def check_kept(folder: Path, fingerprint: str) -> None:
    """Read what earlier runs of a model have left in its ``folder``, of all datasets.

    Raises:
        UsageError: a line is not as it was written (told by file and number), or was written with
            other settings, or nothing can be written there.
    """
    place = folder / "replay"
    check_folder("--work-dir", place)
    datasets = set()
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        known = path.suffix in (".part", ".jsonl", ".turns") or path.name == _STAMP
        if known and path.is_dir():
            raise UsageError(f"{path} is a folder (allowed: a file); give another --work-dir")
        if path.suffix == ".turns":
            for _ in read_sealed(path, TurnLine):
                pass
        elif path.suffix in (".part", ".jsonl"):
            stem = path.name.removesuffix(path.suffix)
            datasets.add(stem.rpartition(".")[0] if path.suffix == ".part" else stem)
    for dataset in sorted(datasets):
        Journal(folder, dataset).lines()
    _stamped(place, fingerprint)


def _stamped(folder: Path, fingerprint: str) -> bool:
    """Return whether a ``replay/`` folder is stamped, with these settings.

    Raises:
        UsageError: the stamp is another, or none that can be read.
    """
    stamp = folder / _STAMP
    if not stamp.is_file():
        return False
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))["fingerprint"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{stamp} does not say with which settings its folder's predictions were made "
            f"({type(error).__name__}: {error}); give another --work-dir"
        ) from error
    if found != fingerprint:
        raise UsageError(
            f"{folder.parent} holds predictions made with settings {shown_text(found)}, and this "
            f"run has {fingerprint}; give another --work-dir or model name"
        )
    return True


def note_sample(row: Any) -> None:
    """Remember which row the harness builds a prompt for; ``generate`` is not told."""
    if session := current():
        session.sample = plain(row["index"])


def noted_sample() -> Any:
    """Return the index of the row whose prompt was built last; None outside a run."""
    session = current()
    return session and session.sample


def keep(predictions: list[str], records: list[Line]) -> None:
    """Write the noted sample's answers and records down, inside a run of the harness."""
    if session := current():
        line = {"index": session.sample, "predictions": predictions, "replay": records}
        session.journal.add(line)


def take_over(journal: Journal, partial: Path) -> int:
    """Put the journal's answers into the harness's ``partial`` file; return how many there were.

    Answers that depended on the moment are taken out of it: a file may be whole by now.
    """
    begun = {index: shown(line["predictions"][0]) for index, line in journal.begun().items()}
    saved = read_partial(partial)
    passing = journal.passing()
    kept = {index: answer for index, answer in (saved | begun).items() if index not in passing}
    if kept != saved:
        write_partial(partial, kept)
    return len(begun)


def ask_again(journal: Journal, predictions: Path) -> None:
    """Mark answers that depended on the moment as failed, in the ``predictions`` of a finished run.

    Upstream takes over whatever it finds there but failures, which it asks for again.
    """
    from vlmeval.inference import FAIL_MSG
    from vlmeval.smp import dump, load

    passing = journal.passing()
    if passing and predictions.exists():
        table = load(str(predictions))
        table.loc[table["index"].map(plain).isin(passing), "prediction"] = FAIL_MSG
        dump(table, str(predictions))
        logger.info(f"replay: {len(passing)} samples are answered again: see {journal.file}")


def finish(journal: Journal, planned: Planned, dataset: Any) -> None:
    """Write the dataset's records and totals, and log the totals."""
    lines = journal.finish(dataset.data["index"])
    total = totals(record for line in lines for record in line["replay"])
    content = {**planned.summary(), "fingerprint": planned.fingerprint}
    missing = len(dataset.data) - len(lines)
    content |= {"samples": planned.samples, "missing": missing, "totals": total}
    write_json(journal.file.with_suffix(".totals.json"), content)
    logger.info(f"replay: {journal.dataset}: records are in {journal.file}")
    if lines:
        report(total)


def _lasts(line: Line) -> bool:
    return all(map(lasting, line["replay"]))


def write_json(path: Path, content: Line) -> None:
    """Write a file at once, so that nobody reads half of it."""
    replace_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
