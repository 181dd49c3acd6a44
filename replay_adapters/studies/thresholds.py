"""Fixed thresholds per layer from a task's own prompts, for ``replay_thresholds=FILE``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from replay_core import UsageError
from replay_core.reading import read
from replay_core.record import library_versions
from replay_core.studies.bench import Bench, chunks
from replay_core.studies.report import write_json, write_table
from replay_core.studies.thresholds import FixedThresholds, candidates, find


def run_thresholds(source: Bench, folder: Path, n: int | None, offset: int) -> FixedThresholds:
    """Find thresholds on ``n`` documents behind ``offset``; write ``thresholds.json`` and ``.csv``.

    γ, layers and candidates are those of the source's options. The right documents to take are
    ones that the evaluation does not use.

    Raises:
        UsageError: none of the documents has a candidate.
    """
    config, layers = source.config, dynamic_layers(source)
    documents = source.documents(n, offset)
    (found,) = found_on(source, documents, [config.threshold])
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
        "thresholds": found.by_layer(layers),
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


def dynamic_layers(source: Bench) -> tuple[int, ...]:
    """Return the layers that the source's options name, whatever thresholds they name as well."""
    depth = source.pair.policy.model.config.get_text_config().num_hidden_layers
    plain = source.config.model_copy(update={"thresholds": "dynamic"})
    return plain.layer_indices(depth)


def found_on(
    source: Bench, documents: Sequence[int], gammas: Sequence[float]
) -> list[FixedThresholds]:
    """Return the fixed thresholds that stand for each γ, found on these documents.

    Raises:
        UsageError: none of the documents has a candidate.
    """
    layers, positions = dynamic_layers(source), source.config.positions
    entropies = []
    with tqdm(total=len(documents), desc="thresholds", unit="prompt") as bar:
        for chunk in chunks(source, documents):
            for prompts in source.prompts(chunk):
                readings = read(source.pair, prompts.inputs, layers)
                entropies += [candidates(reading, positions) for reading in readings]
            bar.update(len(chunk))
    try:
        return [find(entropies, gamma) for gamma in gammas]
    except ValueError as error:
        raise UsageError(f"task {source.name}: {error}") from error
