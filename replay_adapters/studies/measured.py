"""The studies that look inside: drift by layer and certainty, and drift under pixel noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from replay_adapters.studies.written import drift_row, write_drift, write_perturbation
from replay_core import Pair, ReplayConfig, ReplayResult, Steered, UsageError, make_pair
from replay_core.pair.loading import load_model
from replay_core.pair.lora import adapter_layers
from replay_core.reading import read
from replay_core.studies import drift, perturbation
from replay_core.studies.answers import answer_rows, run_arms
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench, chunks
from replay_core.studies.report import Row, Rows

SIGMAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)


def run_drift(
    source: Bench,
    folder: Path,
    n: int | None,
    *,
    quantiles: int = 5,
    null_policy: str | None = None,
    noise_seed: int = 0,
) -> dict[str, Any]:
    """Measure drift on a task's prompts, with its nulls beside it; return the findings.

    ``null_policy`` is a checkpoint trained otherwise than by RL, as an SFT twin; weight noise of
    the norm of policy - base is always measured, except for LoRA pairs, which are one model.
    """
    documents = source.documents(n)
    pairs = _nulls(source, null_policy, noise_seed)
    settings = {
        **source.identity(),
        "quantiles": quantiles,
        "noise_seed": noise_seed,
        "nulls": {name: pair.policy_revision for name, pair in pairs.items() if name != "policy"},
    }
    rows = Rows(folder, "drift", settings, ("arm", "document"))
    with tqdm(total=len(documents) * len(pairs), desc="drift", unit="prompt") as bar:
        for chunk in chunks(source, documents):
            if not all((arm, d) in rows for arm in pairs for d in chunk):
                for prompts in source.prompts(chunk):
                    for arm, pair in pairs.items():
                        rows.add(_drift_rows(arm, pair, prompts, quantiles))
            bar.update(len(chunk) * len(pairs))
    wanted = set(documents)
    return write_drift(
        folder,
        [row for row in rows if row["document"] in wanted and row["arm"] in pairs],
        documents,
        settings=settings,
        decode=source.decode,
        seed=noise_seed,
    )


def _nulls(source: Bench, null_policy: str | None, seed: int) -> dict[str, Pair]:
    """Return the pair and its nulls, all with the pair's base."""
    pair = source.pair
    pairs = {"policy": pair}
    base = pair.base.model
    if null_policy is not None:
        twin = load_model(null_policy, dtype=base.dtype, device_map=str(base.device))
        pairs["sft twin"] = make_pair(twin, base)
    if not adapter_layers(pair.policy.model):
        noisy = drift.noisy_twin(pair.policy.model, base, seed)
        revision = f"noise of {pair.policy_revision}"
        pairs["weight noise"] = replace(make_pair(noisy, base), policy_revision=revision)
    return pairs


def _drift_rows(arm: str, pair: Pair, prompts: Any, quantiles: int) -> list[Row]:
    readings = read(pair, prompts.inputs)
    return [
        drift_row(arm, document, reading, quantiles)
        for document, reading in zip(prompts.documents, readings, strict=True)
    ]


def run_perturbation(
    source: Bench,
    folder: Path,
    n: int | None,
    *,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 2,
    samples: int = 8,
    metric: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Noise every picture to several degrees and correlate drift with perplexity; see findings.

    Right and wrong answers are the policy's own, sampled at temperature 1 from the clean picture
    and judged by the task's scorer; an item without one kind is left out of that correlation.
    """
    documents = source.documents(n)
    config = source.config
    plain = ReplayConfig(**{**config.model_dump(), "method": "none"})
    answers = run_arms(
        source,
        [Arm("policy, sampled", plain)],
        documents,
        answer_rows(folder, source, metric),
        metric=metric,
        repeats=samples,
        sampling={"temperature": 1.0},
        label="sampled answers",
    )
    points = [(s, d) for s in sigmas for d in range(draws if s > 0 else 1)]
    settings = {
        **source.identity(),
        "metric": metric,
        "noise": "Gaussian on the processor's pixel values",
        "points": points,
        "samples": samples,
        "threshold": config.threshold,
        "layers": list(_layers(source)),
        "seed": seed,
    }
    rows = Rows(folder, "perturbation", settings, ("document",))
    texts = _by_verdict(answers)
    for document in tqdm(documents, desc="perturbation", unit="item"):
        if (document,) not in rows:
            rows.add([_perturbed(source, document, texts[document], points, seed)])
    found = {row["document"]: row["points"] for row in rows}
    items = [found[document] for document in documents]
    return write_perturbation(folder, items, settings=settings, seed=seed)


def _layers(source: Bench) -> tuple[int, ...]:
    return source.config.layer_indices(len(source.pair.policy.layers))


def _by_verdict(rows: Sequence[Row]) -> dict[int, dict[str, list[str]]]:
    """Return document → right and wrong → distinct texts."""
    found: dict[int, dict[str, list[str]]] = {}
    for row in rows:
        verdict = "right" if row["correct"] >= 0.5 else "wrong"
        mine = found.setdefault(row["document"], {"right": [], "wrong": []})[verdict]
        if row["text"] and row["text"] not in mine:
            mine.append(row["text"])
    return found


def _perturbed(
    source: Bench,
    document: int,
    texts: Mapping[str, Sequence[str]],
    points: Sequence[tuple[float, int]],
    seed: int,
) -> Row:
    (prompts,) = source.prompts([document])
    if not any(name in prompts.inputs for name in perturbation.PIXELS):
        raise UsageError(f"document {document} has no picture to add noise to")
    config = source.config
    measured: list[dict[str, Any]] = []
    for start in range(0, len(points), source.batch_size):
        part = points[start : start + source.batch_size]
        batch = perturbation.noised(prompts.inputs, part, source.seed(document, seed=seed))
        likelihoods = {
            verdict: _likelihoods(source, batch, found) for verdict, found in texts.items()
        }
        readings = read(source.pair, batch, _layers(source))
        for number, (sigma, draw) in enumerate(part):
            reading = readings[number]
            low, high = perturbation.split_drift(reading, range(len(reading.kl)), config.threshold)
            point = {"sigma": sigma, "draw": draw, "low": low, "high": high}
            for verdict, values in likelihoods.items():
                point[verdict] = None if values is None else float(values[number])
            measured.append(point)
    return {"document": document, "points": measured}


def _likelihoods(
    source: Bench, batch: dict[str, torch.Tensor], texts: Sequence[str]
) -> torch.Tensor | None:
    """Return the mean negative log-likelihood per token (copies,) over texts, in nats."""
    if not texts:
        return None
    plain = ReplayConfig(**{**source.config.model_dump(), "method": "none"})
    steered, off = Steered(source.pair, plain), ReplayResult(None, None, ())
    copies = len(batch["input_ids"])
    means = []
    for text in texts:
        continuation = torch.tensor(
            [source.encode(text)] * copies, device=batch["input_ids"].device
        )
        means.append(-steered.score(batch, off, continuation).mean(1).cpu())
    return torch.stack(means).mean(0)
