"""Which answers of an earlier run a run that is started again takes over.

Not those that depended on the moment: a file that could not be read may be whole by now.
"""

from pathlib import Path

from loguru import logger

from replay_adapters.vlmevalkit.journal import Journal, plain
from replay_adapters.vlmevalkit.scoring import shown


def take_over(journal: Journal, partial: Path) -> int:
    """Put the journal's answers into the harness's ``partial`` file; return how many there were.

    Answers that depended on the moment are taken out of it.
    """
    from vlmeval.smp import dump, load

    begun = {index: shown(line["predictions"][0]) for index, line in journal.begun().items()}
    saved = load(str(partial)) if partial.exists() else {}
    passing = journal.passing()
    kept = {index: answer for index, answer in (saved | begun).items() if index not in passing}
    if kept != saved:
        dump(kept, str(partial))
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
