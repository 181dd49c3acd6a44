"""Which fixed entropies, one per layer, stand for the dynamic threshold of other prompts?

Xing et al. 2025 compare the mask ``e <= γ·max e``, whose threshold follows each sample's largest
entropy, with thresholds fixed beforehand, and find both comparable. The one rule for them here, in
``activation-replay thresholds`` and in the grid alike, is :func:`find`: the mean, over held-out
samples, of γ times a sample's largest entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from replay_core.config import Positions
from replay_core.errors import UsageError
from replay_core.reading import Reading, read
from replay_core.record import library_versions
from replay_core.studies.bench import Bench, chunks
from replay_core.studies.report import write_json, write_table
from replay_core.studies.stats.resampling import Floats

SMALLEST = 1e-6  # nats


@dataclass(frozen=True)
class FixedThresholds:
    """Thresholds found on n samples; arrays are (layers,), entropies in nats.

    ``nats`` is the mean over the samples of γ times their largest entropy, ``deviation`` its
    standard deviation; ``dynamic_share`` and ``fixed_share`` are the shares of all candidates that
    the dynamic and the fixed mask select on these samples.
    """

    nats: Floats
    deviation: Floats
    dynamic_share: Floats
    fixed_share: Floats
    samples: int

    def by_layer(self, layers: Sequence[int]) -> dict[int, float]:
        """Return layer → nats, as ``ReplayConfig.thresholds`` takes them: every one above 0.

        ``layers`` are those of the arrays. A layer that is certain everywhere has the threshold 0,
        and so here the smallest one, which selects the same.
        """
        positive = np.maximum(self.nats, SMALLEST).tolist()
        return dict(zip(layers, positive, strict=True))

    def told(self, pair: str, task: str) -> str:
        """Return one line per layer, for people."""
        shares = zip(self.nats, self.fixed_share, self.dynamic_share, strict=True)
        by_layer = [
            f"  {nats:.4f} nats: selects {fixed:.3f} (dynamic: {dynamic:.3f})"
            for nats, fixed, dynamic in shares
        ]
        head = f"Fixed thresholds of {pair} on {task}: the mean of γ·max entropy"
        return "\n".join([f"{head}, n = {self.samples}", *by_layer])


def run(bench: Bench, folder: Path, n: int | None, offset: int = 0) -> FixedThresholds:
    """Find thresholds on ``n`` documents behind ``offset``; write ``thresholds.json`` and ``.csv``.

    γ, layers and candidates are those of the bench's settings. The right documents to take are
    ones that the evaluation does not use. The JSON is what ``replay_thresholds=FILE`` reads.

    Raises:
        UsageError: none of the documents has a candidate.
    """
    config, layers = bench.config, dynamic_layers(bench)
    documents = bench.documents(n, offset)
    (found,) = found_on(bench, documents, [config.threshold])
    columns = ("nats", "deviation", "dynamic_share", "fixed_share")
    table = [
        {"layer": layer, **{name: getattr(found, name)[row] for name in columns}}
        for row, layer in enumerate(layers)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "thresholds.csv", table)
    content = {
        "thresholds": found.by_layer(layers),
        "gamma": config.threshold,
        "positions": config.positions,
        "settings": bench.identity(),
        "versions": library_versions(),
        "documents": [documents[0], documents[-1]],
        "n": found.samples,
        "table": table,
    }
    write_json(folder / "thresholds.json", content)
    return found


def dynamic_layers(bench: Bench) -> tuple[int, ...]:
    """Return the layers that the bench's settings name, whatever thresholds they name as well."""
    plain = bench.config.model_copy(update={"thresholds": "dynamic"})
    return plain.layer_indices(len(bench.pair.policy.layers))


def found_on(
    bench: Bench, documents: Sequence[int], gammas: Sequence[float]
) -> list[FixedThresholds]:
    """Return the fixed thresholds that stand for each γ, found on these documents.

    Raises:
        UsageError: none of the documents has a candidate.
    """
    layers, positions = dynamic_layers(bench), bench.config.positions
    entropies = []
    with tqdm(total=len(documents), desc="thresholds", unit="prompt") as bar:
        for chunk in chunks(bench, documents):
            for prompts in bench.prompts(chunk):
                readings = read(bench.pair, prompts.inputs, layers)
                entropies += [candidates(reading, positions) for reading in readings]
            bar.update(len(chunk))
    try:
        return [find(entropies, gamma) for gamma in gammas]
    except ValueError as error:
        raise UsageError(f"task {bench.name}: {error}") from error


def candidates(reading: Reading, positions: Positions) -> Floats:
    """Return the base's entropies (layers, candidates) of one sample."""
    return reading.entropy[:, reading.visual] if positions == "visual" else reading.entropy


def find(entropies: Sequence[Floats], gamma: float) -> FixedThresholds:
    """Return the mean of γ·max entropy over samples whose candidates have these entropies.

    ``entropies`` are (layers, candidates) per sample, in nats; ``gamma`` in (0, 1].

    Raises:
        ValueError: no sample has a candidate.
    """
    samples = [values for values in entropies if values.shape[1]]
    if not samples:
        raise ValueError("no sample has a candidate, so there is nothing to find thresholds from")
    limits = np.stack([gamma * values.max(axis=1) for values in samples])  # (samples, layers)
    nats = limits.mean(axis=0)
    total = sum(values.shape[1] for values in samples)
    dynamic = sum(
        (values <= limit[:, None]).sum(axis=1)
        for values, limit in zip(samples, limits, strict=True)
    )
    fixed = sum((values <= nats[:, None]).sum(axis=1) for values in samples)
    return FixedThresholds(
        nats,
        limits.std(axis=0),
        np.asarray(dynamic) / total,
        np.asarray(fixed) / total,
        len(samples),
    )
