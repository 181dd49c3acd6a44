"""What the records of a finished set add up to, written beside them."""

from typing import Any

from loguru import logger

from replay_adapters.session.records import report, totals
from replay_adapters.vlmevalkit.arguments import Planned
from replay_adapters.vlmevalkit.journal import Journal, write_json


def finish(journal: Journal, planned: Planned, dataset: Any) -> None:
    """Write the dataset's records and totals, and log the totals."""
    lines = journal.finish(dataset.data["index"])
    total = totals(record for line in lines for record in line["replay"])
    content = {**planned.settings.summary(), "fingerprint": planned.fingerprint}
    missing = len(dataset.data) - len(lines)
    content |= {"samples": planned.samples, "missing": missing, "totals": total}
    write_json(journal.file.with_suffix(".totals.json"), content)
    logger.info(f"replay: {journal.dataset}: records are in {journal.file}")
    if lines:
        report(total)
