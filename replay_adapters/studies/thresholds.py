"""Fixed thresholds per layer from a task's own prompts, for ``replay_thresholds=FILE``."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from replay_adapters.studies.source import Source
from replay_core import UsageError
from replay_core.record import library_versions
from replay_core.studies import drift
from replay_core.studies.output import write_json, write_table
from replay_core.studies.thresholds import FixedThresholds, candidates, find


def run_thresholds(source: Source, folder: Path, n: int | None, offset: int) -> FixedThresholds:
    """Find thresholds on ``n`` documents behind ``offset``; write ``thresholds.json`` and ``.csv``.

    γ, layers and candidates are those of the source's options. The right documents to take are
    ones that the evaluation does not use.

    Raises:
        UsageError: none of the documents has a candidate.
    """
    config = source.settings.config
    depth = source.pair.policy.model.config.get_text_config().num_hidden_layers
    layers = config.model_copy(update={"thresholds": "dynamic"}).layer_indices(depth)
    documents = source.questions.documents(n, offset)
    entropies = []
    with tqdm(total=len(documents), desc="thresholds", unit="prompt") as bar:
        for chunk in source.chunks(documents):
            for prompts in source.prompts(chunk):
                readings = drift.read(source.pair, prompts.inputs, layers)
                entropies += [candidates(reading, config.positions) for reading in readings]
            bar.update(len(chunk))
    try:
        found = find(entropies, config.threshold)
    except ValueError as error:
        raise UsageError(f"task {source.name}: {error}") from error
    table = [
        {
            "layer": layer,
            **{name: values[row] for name, values in asdict(found).items() if name != "samples"},
        }
        for row, layer in enumerate(layers)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "thresholds.csv", table)
    content = {
        "thresholds": dict(zip(layers, np.round(found.nats, 6).tolist(), strict=True)),
        "gamma": config.threshold,
        "positions": config.positions,
        "settings": source.identity(),
        "versions": library_versions(),
        "documents": [documents[0], documents[-1]],
        "n": found.samples,
        "table": table,
    }
    write_json(folder / "thresholds.json", content)
    return found
