"""What a model is answering, and all rows of a picture set at once where vLLM decodes.

Upstream asks one row after the other. With an engine that decodes many prompts at once, rows are
asked ahead of its loop, each in a thread of which one works at a time, and are kept in the set's
journal, from which upstream's loop then takes them as it does in a run that is started again.
"""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from replay_adapters.session.overlap import overlapped
from replay_adapters.session.session import Session, opened
from replay_adapters.vlmevalkit.journal import plain, take_over
from replay_core import ReplayRecord, Steered
from replay_core.answer import Recent


class Answering(threading.local):
    """What this thread is answering.

    ``item`` is set, row, repeat and turn; ``records`` those of the texts so far. Of a conversation,
    ``stopping`` says where its texts end, and ``kept`` is the x that is kept from its earlier
    turns.
    """

    def __init__(self, steered: Steered) -> None:
        self.item: tuple[Any, ...] = ()
        self.stopping: dict[str, Any] = {}
        self.kept: Tensor | None = None
        self.records: list[ReplayRecord] = []
        self.recent = Recent(steered)


def answer_ahead(
    model: Any, model_name: str, work_dir: str, dataset: Any, session: Session, out_file: Path
) -> None:
    """Answer all rows that upstream's loop would ask, and put the answers where it looks first.

    A set of clips is left to the loop, which reads each clip in its own way.
    """
    if model.decoder is None or dataset.MODALITY == "VIDEO":
        return
    model.set_dump_image(dataset.dump_image)
    rows = [row for _, row in dataset.data.iterrows()]
    known = _answered(Path(work_dir) / f"{model_name}_{dataset.dataset_name}_PREV.pkl", out_file)
    jobs = [
        partial(_answer, model, dataset, session, row)
        for row in rows
        if plain(row["index"]) not in known
    ]
    with model.reading.scope():
        overlapped(model.decoder, jobs)
    take_over(session.journal, out_file)


def _answered(*files: Path) -> set[Any]:
    """Return the rows that upstream holds answers of."""
    from vlmeval.smp import load

    return {plain(index) for file in files if file.exists() for index in load(str(file))}


def _answer(model: Any, dataset: Any, session: Session, row: Any) -> None:
    """Ask one row as upstream does; the model keeps the answer in the journal."""
    name = dataset.dataset_name
    with opened(replace(session)):
        forced = getattr(dataset, "force_use_dataset_prompt", False)
        if not forced and model.use_custom_prompt(name):
            message = model.build_prompt(row, dataset=name)
        else:
            message = dataset.build_prompt(row)
        model.generate(message=message, dataset=name)
