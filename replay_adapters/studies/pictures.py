"""Overlays of chosen items: what was masked, and where x acts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from replay_core import ReplayConfig, Steered, UsageError
from replay_core.model.anatomy import placeholder_masks
from replay_core.reading import read
from replay_core.studies.answers import answer_rows, run_arms
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench, Prompts
from replay_core.studies.overlay import Overlay, draw_overlay
from replay_core.studies.report import Row, write_study

Grid = tuple[int, int]


def run_overlay(
    source: Bench,
    folder: Path,
    *,
    chosen: Sequence[int] = (),
    among: int | None = 100,
    most: int = 4,
    metric: str | None = None,
) -> list[Path]:
    """Draw ``chosen`` documents, else up to ``most`` of the first ``among`` that say most.

    Those are the ones whose score replay changes, then those whose text it changes, then those on
    which x is longest.
    """
    config = ReplayConfig(**{**source.config.model_dump(), "method": "replay"})
    arms = [
        Arm("none", ReplayConfig(**{**config.model_dump(), "method": "none"})),
        Arm("replay", config),
    ]
    documents = source.documents(max(chosen) + 1 if chosen else among)
    missing = sorted(set(chosen) - set(documents))
    if missing:
        raise UsageError(f"documents {missing} are not in {source.name} (0 to {max(documents)})")
    wanted = list(chosen) or documents
    answers = answer_rows(folder, source, metric)
    rows = run_arms(source, arms, wanted, answers, metric=metric, label="overlay")
    none = {row["document"]: row for row in rows if row["arm"] == "none"}
    replayed = {row["document"]: row for row in rows if row["arm"] == "replay"}
    if not chosen:
        wanted = sorted(wanted, key=lambda d: _interest(none[d], replayed[d]))[:most]
    paths, table = [], []
    for document in wanted:
        item = _overlay(source, config, document, none[document], replayed[document])
        paths.append(folder / f"overlay_{document}.png")
        draw_overlay(paths[-1], item)
        table.append(
            {
                "document": document,
                "none": none[document]["correct"],
                "replay": replayed[document]["correct"],
                "masked": float(item.masked.mean()),
                "mean_entropy": float(item.entropy.mean()),
                "mean_drift": float(item.drift.mean()),
                "delta_norm": float(item.delta.mean()),
                "picture": paths[-1].name,
            }
        )
    settings = {**source.identity(), "config": config.model_dump(mode="json")}
    findings = {"documents": list(wanted)}
    write_study(
        folder, "overlay", settings=settings, table=table, findings=findings, seed=config.seed
    )
    return paths


def _interest(none: Row, replayed: Row) -> tuple[Any, ...]:
    """Return a sort key: what changes most comes first."""
    return (
        none["correct"] == replayed["correct"],
        none["text"] == replayed["text"],
        -replayed["delta_norm"],
        none["document"],
    )


def _overlay(
    source: Bench, config: ReplayConfig, document: int, none: Row, replayed: Row
) -> Overlay:
    (prompts,) = source.prompts([document])
    steered = Steered(source.pair, config)
    result = steered.optimise(prompts.inputs, seeds=[source.seed(document)])
    if result.delta is None:
        raise UsageError(f"document {document} has no picture to draw")
    shape = _grid(source, prompts, len(result.delta))
    targets = steered.targets(prompts.inputs, seeds=[source.seed(document)])
    visual = _visual_candidates(source, prompts, config)
    entropies = torch.stack([values[visual].float() for values in targets.entropies.values()])
    masked = torch.zeros_like(entropies)
    for row, layer in enumerate(targets.entropies):
        if layer in targets.layers:
            chosen = torch.zeros(len(targets.entropies[layer]))
            chosen[targets.layers[layer].index.cpu()] = 1
            masked[row] = chosen[visual]
    (reading,) = read(source.pair, prompts.inputs, steered.layers)
    size = shape[0] * shape[1]
    sample = result.samples[0]
    asked = source.question(document)
    losses = (
        ""
        if sample.loss_after is None
        else (f"; masked KL {sample.loss_before:.3g} → {sample.loss_after:.3g} nats")
    )
    return Overlay(
        title=f"{source.name}, document {document}: {sample.outcome.value}{losses}",
        question=asked.text,
        target=asked.target,
        answers={
            "none": (none["text"], none["correct"]),
            "replay": (replayed["text"], replayed["correct"]),
        },
        picture=asked.picture,
        masked=_shaped(masked.mean(0).numpy(), shape),
        entropy=_shaped(entropies.mean(0).cpu().numpy(), shape),
        drift=_shaped(reading.kl[:, reading.visual].mean(0), shape),
        delta=_shaped(result.delta.float().norm(dim=-1).cpu().numpy(), shape),
        note="" if len(result.delta) == size else "only the first picture is drawn",
    )


def _shaped(values: Any, shape: Grid) -> Any:
    return np.asarray(values, dtype=np.float64)[: shape[0] * shape[1]].reshape(shape)


def _grid(source: Bench, prompts: Prompts, tokens: int) -> Grid:
    """Return rows and columns of the first picture's visual tokens.

    Raises:
        UsageError: the model says no grid and the tokens form no square.
    """
    grids = prompts.inputs.get("image_grid_thw")
    if grids is not None:
        vision = getattr(source.pair.policy.model.config, "vision_config", None)
        merge = int(getattr(vision, "spatial_merge_size", 2))
        _, height, width = grids[0].tolist()
        return height // merge, width // merge
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UsageError(
            f"{source.pair.name} does not say how its {tokens} visual tokens lie in the picture; "
            "overlays need image_grid_thw, or a square number of them"
        )
    return side, side


def _visual_candidates(source: Bench, prompts: Prompts, config: ReplayConfig) -> torch.Tensor:
    """Return where among the mask's candidates the visual tokens stand: bool (candidates,)."""
    ids = prompts.inputs["input_ids"]
    masks = placeholder_masks(source.pair.policy.model, ids)
    visual = torch.stack(list(masks.values())).any(0)[0].cpu()
    kept = prompts.inputs["attention_mask"][0].bool().cpu()
    visual = visual[kept]
    return (
        torch.ones(int(visual.sum()), dtype=torch.bool) if config.positions == "visual" else visual
    )
