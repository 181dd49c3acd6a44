"""The records of a run: kept by document while it goes, and summed up at its end."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from loguru import logger

from replay_adapters.settings.run_options import PREFIX
from replay_core import Outcome, ReplayRecord
from replay_core.errors import shown
from replay_core.outcome import FAULTS
from replay_core.record import ToolUse, lasting

Key = tuple[str, Any]  # (task, document)
STEERED = (Outcome.APPLIED, Outcome.OFF)


class RecordBook:
    """Records by (task, document), in the order of repeats and rounds."""

    def __init__(self) -> None:
        self._records: dict[Key, list[ReplayRecord]] = defaultdict(list)

    def add(self, task: str, document: Any, record: ReplayRecord) -> None:
        """Keep one record."""
        self._records[task, document].append(record)

    def take_over(self, other: "RecordBook") -> None:
        """Put another book's records behind these."""
        for key, records in other._records.items():
            self._records[key].extend(records)

    def took(self, task: str, document: Any, at: int, response: str, answer: str | None) -> None:
        """Note which final answer was taken out of which text, in a document's record ``at``.

        None where none was looked for, as in a turn that others follow.
        """
        records = self._records.get((task, document), [])
        # An answer from a cache has no record, and one to an unreadable input is none of the model.
        if at < len(records) and records[at].outcome is not Outcome.UNREADABLE_INPUT:
            found = {"response": response, "answer": answer}
            records[at] = records[at].model_copy(update=found)

    def used(self, task: str, document: Any, at: int, tool: ToolUse | None) -> None:
        """Note in a document's record ``at`` what became of the tool's call in its text."""
        records = self._records.get((task, document), [])
        if at < len(records):
            records[at] = records[at].model_copy(update={"tool": tool})

    def arrange(self, task: str, document: Any, order: Sequence[int]) -> None:
        """Put a document's records into another order, their present numbers."""
        records = self._records.get((task, document), [])
        records[:] = [records[at] for at in order if at < len(records)]

    def count(self, task: str, document: Any) -> int:
        """Return how many records a document has."""
        return len(self._records.get((task, document), ()))

    def cut(self, task: str, document: Any, at: int) -> bool:
        """Return whether an answer was cut at the limit of tokens, as its record ``at`` says."""
        records = self._records.get((task, document), [])
        return at < len(records) and bool(records[at].truncated)

    def of(self, task: str, document: Any) -> list[dict[str, Any]]:
        """Return a document's records as plain data; empty for an answer from a cache."""
        return [
            record.model_dump(mode="json") for record in self._records.get((task, document), ())
        ]

    def lasts(self, task: str, document: Any) -> bool:
        """Return whether a later run may be served a document's answer from a store."""
        return all(map(lasting, self.of(task, document)))

    def all(self) -> list[ReplayRecord]:
        """Return every record."""
        return [record for records in self._records.values() for record in records]


def totals(records: Iterable[Mapping[str, Any] | ReplayRecord]) -> dict[str, Any]:
    """Return what a run's records add up to: counts of outcomes, mean losses, seconds, cut answers.

    ``remedies`` says what to do about an outcome, ``errors`` what the first of its samples met
    with. Losses are means over the ``applied`` samples, in nats; ``rose`` counts the samples whose
    loss rose on its way, ``no_answer`` the texts without a final answer; seconds are per sample.
    """
    rows = [
        row.model_dump(mode="json") if isinstance(row, ReplayRecord) else row for row in records
    ]
    applied = [row for row in rows if row["outcome"] == Outcome.APPLIED.value]
    counts = dict(Counter(str(row["outcome"]) for row in rows))
    finished = [row["truncated"] for row in rows if row["truncated"] is not None]
    return {
        "n": len(rows),
        "outcomes": counts,
        "remedies": {name: remedy for name in counts if (remedy := Outcome(name).remedy(PREFIX))},
        "errors": _errors(rows),
        "loss_before": _mean(row["loss_before"] for row in applied),
        "loss_after": _mean(row["loss_after"] for row in applied),
        "rose": sum(bool(row.get("rose")) for row in rows),
        "masked_fraction": _mean(
            share for row in rows for share in row["masked_fraction"].values()
        ),
        "changed_fraction": _mean(row["changed_fraction"] for row in applied),
        "seconds_per_sample": {
            part: _mean(row["seconds"][part] for row in rows) for part in ("base", "loop", "decode")
        },
        "new_tokens": _mean(row["new_tokens"] for row in rows),
        "truncated": _mean(float(cut) for cut in finished),
        "no_answer": sum(row.get("answer") == "" for row in rows),
    }


def summed(book: RecordBook) -> dict[str, Any]:
    """Return the totals of a run over all processes, and log them once."""
    records = book.all()
    if PartialState().num_processes > 1:
        records = gather_object(records)
    total = totals(records)
    if PartialState().is_main_process:
        report(total)
    return total


def report(summary: Mapping[str, Any]) -> None:
    """Log the totals; a warning, with the remedy, for what kept samples from being steered."""
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(summary["outcomes"].items()))
    logger.info(f"replay: {summary['n']} answers: {outcomes}")
    for name, count in sorted(summary["outcomes"].items()):
        outcome = Outcome(name)
        if outcome not in STEERED:
            remedy = outcome.remedy(PREFIX)
            then = f": {remedy}" if remedy else ""
            logger.warning(f"replay: {name} in {count} of {summary['n']}: {outcome.meaning}{then}")
    if summary["loss_before"] is not None:
        logger.info(
            f"replay: masked KL {summary['loss_before']:.4g} → {summary['loss_after']:.4g} nats, "
            "mean of the samples it was applied to"
        )
    if summary["no_answer"]:
        logger.warning(
            f"replay: no_answer in {summary['no_answer']} of {summary['n']}: the text holds no "
            "final answer in the pair's format, so that the scorer was given an empty one"
        )
    if summary["rose"]:
        logger.warning(
            f"replay: in {summary['rose']} of {summary['n']} answers the loss rose more than 5% "
            "above its start on the way; a lower replay_step_size descends more steadily"
        )


def conclusion(runs: Sequence[Mapping[str, Any]]) -> tuple[str, int, int]:
    """Return what the totals of several evaluations come to in one line.

    Behind it stand how many answers there are, and how many of them ended in a fault.
    """
    counts: Counter[str] = Counter()
    remedies: dict[str, str] = {}
    errors: dict[str, str] = {}
    for run in runs:
        counts.update(run["outcomes"])
        remedies |= run["remedies"]
        errors = {**run["errors"], **errors}
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    faults = [outcome.value for outcome in FAULTS if counts[outcome.value]]
    told = "".join(
        f"; {name} ({errors.get(name, 'no error')}): {remedies[name]}" for name in faults
    )
    return (
        f"{counts.total()} answers: {outcomes}{told}",
        counts.total(),
        sum(counts[name] for name in faults),
    )


def _errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return outcome → the first error that a record of it tells."""
    found: dict[str, str] = {}
    for row in rows:
        if row.get("error"):
            found.setdefault(str(row["outcome"]), shown(row["error"], most=200))
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    collected = [value for value in values if value is not None]  # injection has no losses
    return fmean(collected) if collected else None
