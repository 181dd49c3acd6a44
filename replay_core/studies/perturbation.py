"""Does a small low-entropy drift go with answers that are easier to say? Pixel noise as the lever.

Within one item the picture is noised to several degrees; at each the drift of low- and of
high-entropy visual positions and the teacher-forced perplexity of right and of wrong answers are
measured, and correlated by rank over the item's points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from torch import Tensor

from replay_core.model.anatomy import PIXELS, Inputs
from replay_core.reading import Reading
from replay_core.seeds import stable_seed
from replay_core.studies.stats.resampling import Floats, Interval, mean_interval

OUTCOMES = ("right", "wrong")


def noised(inputs: Inputs, points: Sequence[tuple[float, int]], seed: int) -> dict[str, Tensor]:
    """Return a batch of one prompt's copies, one per (σ, draw), with Gaussian noise on the pixels.

    ``inputs`` hold one prompt. σ is in the processor's units, in which pixels have been divided by
    the processor's standard deviation (about 0.27 of the range from black to white for the Qwen
    family); noise is not clipped. σ = 0 leaves the picture as it is.

    Raises:
        ValueError: the batch holds more than one prompt.
    """
    if len(inputs["input_ids"]) != 1:
        raise ValueError(f"noised takes one prompt, found {len(inputs['input_ids'])}")
    copies = {
        name: value.repeat(len(points), *[1] * (value.ndim - 1)) for name, value in inputs.items()
    }
    for name in PIXELS:
        if name not in inputs:
            continue
        clean = inputs[name]
        for number, (sigma, draw) in enumerate(points):
            generator = torch.Generator().manual_seed(stable_seed(seed, sigma, draw))
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            rows = slice(number * len(clean), (number + 1) * len(clean))
            copies[name][rows] = clean + sigma * noise
    return copies


def split_drift(
    reading: Reading, layers: Sequence[int], threshold: float
) -> tuple[float | None, float | None]:
    """Return the mean KL (nats) of low-entropy and of high-entropy visual positions.

    Low-entropy is at most ``threshold`` times the layer's largest base entropy, as in the method's
    mask; means over layers that have such positions. None where no layer has any.
    """
    low: list[float] = []
    high: list[float] = []
    for layer in layers:
        e, divergence = reading.entropy[layer, reading.visual], reading.kl[layer, reading.visual]
        if len(e) == 0:
            continue
        mask = e <= threshold * e.max()
        for chosen, into in ((mask, low), (~mask, high)):
            if chosen.any():
                into.append(float(divergence[chosen].mean()))
    return tuple(float(np.mean(part)) if part else None for part in (low, high))  # type: ignore[return-value]


def spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike | None = None) -> float:
    """Return Spearman's rank correlation, or the partial one with ``given`` held fixed.

    ``(r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²))`` of the ranks. NaN where a variable does
    not vary, or is wholly explained by ``given``. Ranks do not take out all of a strong common
    cause: over 12 points of two variables that share only ``given``, about 0.06 remains where it
    correlates with each at 0.8, about 0.03 at 0.6.
    """
    ranks = [rankdata(values) for values in ((x, y) if given is None else (x, y, given))]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    r = np.corrcoef(ranks)
    if given is None:
        return float(r[0, 1])
    left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(left)) if left > 1e-12 else float("nan")


@dataclass(frozen=True)
class Correlation:
    """A within-item rank correlation, averaged over the items that have one."""

    n: int
    rho: float
    interval: Interval


def correlate(
    items: Sequence[Sequence[Mapping[str, Any]]],
    outcome: str,
    given: str | None = None,
    *,
    drift: str = "low",
    seed: int = 0,
) -> Correlation:
    """Return the mean over items of Spearman(drift, log-perplexity), with an item bootstrap.

    ``items``: one list of points each; a point maps ``low``, ``high``, ``sigma``, ``right`` and
    ``wrong`` (the last two: mean negative log-likelihood per token) to numbers or None. Points
    without a value are left out, and so are items with fewer than four points or no variation.
    """
    values = []
    names = [drift, outcome, *([given] if given else [])]
    for points in items:
        whole = [p for p in points if all(p.get(name) is not None for name in names)]
        if len(whole) >= 4:
            columns: list[Floats] = [np.array([p[name] for p in whole]) for name in names]
            values.append(spearman(*columns))
    kept = np.array([value for value in values if np.isfinite(value)])
    if len(kept) == 0:
        return Correlation(0, float("nan"), Interval(float("nan"), float("nan")))
    return Correlation(len(kept), float(kept.mean()), mean_interval(kept, seed=seed))


def ladder(items: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row per σ: means over items of drift and log-perplexities, where there are any."""
    sigmas = sorted({point["sigma"] for points in items for point in points})
    rows = []
    for sigma in sigmas:
        mine = [p for points in items for p in points if p["sigma"] == sigma]
        row: dict[str, Any] = {"sigma": sigma, "points": len(mine)}
        for name in ("low", "high", *OUTCOMES):
            found = [p[name] for p in mine if p.get(name) is not None]
            row[name] = float(np.mean(found)) if found else None
        rows.append(row)
    return rows
