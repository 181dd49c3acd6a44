"""Drift summed by layer, kind of position and the base's entropy; means, shapes and intervals.

Items are prompts: whole ones are resampled, as the positions of one prompt are not independent.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from replay_core.studies.stats.resampling import Floats, Interval, bootstrap_ratio, percentile

if TYPE_CHECKING:  # for its type alone: these statistics wait for no torch
    from replay_core.reading import Reading

KINDS = ("visual", "text")
FIELDS = ("count", "kl", "entropy", "agree", "kl_where_agree")

Changes = Counter[tuple[str, int, int]]
"""(kind of position, the base's top id, the policy's top id) → how often."""


def cells(reading: "Reading", quantiles: int) -> Floats:
    """Return sums over one prompt's positions, (layers, kinds, quantiles, fields).

    Positions of one kind are ranked by the base's entropy at that layer and cut into ``quantiles``
    parts of (nearly) equal size, lowest first; equal entropies keep the prompt's order. The fields
    are :data:`FIELDS`.
    """
    layers = len(reading.kl)
    table = np.zeros((layers, len(KINDS), quantiles, len(FIELDS)))
    agree = (reading.base_top == reading.policy_top).astype(float)
    for kind, mine in enumerate((reading.visual, ~reading.visual)):
        total = int(mine.sum())
        for layer in range(layers):
            e = reading.entropy[layer, mine]
            rank = np.empty(total, dtype=int)
            rank[np.argsort(e, kind="stable")] = np.arange(total)
            bucket = rank * quantiles // max(total, 1)
            divergence, same = reading.kl[layer, mine], agree[layer, mine]
            values = (np.ones(total), divergence, e, same, divergence * same)
            np.add.at(table[layer, kind], bucket, np.stack(values, 1))
    return table


def field(table: Floats, name: str) -> Floats:
    """Return one of :data:`FIELDS` from a table whose last axis holds them."""
    return np.asarray(table[..., FIELDS.index(name)])


def changed(reading: "Reading") -> Changes:
    """Count where the two lenses' first words differ, over all layers."""
    counts: Changes = Counter()
    for kind, mine in zip(KINDS, (reading.visual, ~reading.visual), strict=True):
        ours, theirs = reading.base_top[:, mine], reading.policy_top[:, mine]
        moved = ours != theirs
        counts.update(
            (kind, int(a), int(b)) for a, b in zip(ours[moved], theirs[moved], strict=True)
        )
    return counts


def top_changes(counts: Changes, kind: str, most: int = 20) -> list[tuple[int, int, int]]:
    """Return (base id, policy id, count) of the most frequent changes at one kind of position."""
    mine = [(a, b, n) for (k, a, b), n in counts.items() if k == kind]
    return sorted(mine, key=lambda change: (-change[2], change))[:most]


def split_drift(reading: "Reading", threshold: float) -> tuple[float | None, float | None]:
    """Return the mean KL (nats) of low-entropy and of high-entropy visual positions.

    Low-entropy is at most ``threshold`` times the layer's largest base entropy, as in the method's
    mask; means over layers that have such positions. None where no layer has any.
    """
    e, kl = reading.entropy[:, reading.visual], reading.kl[:, reading.visual]
    low = e <= threshold * e.max(axis=1, initial=0, keepdims=True)
    return _mean_by_layer(kl, low), _mean_by_layer(kl, ~low)


def _mean_by_layer(values: Floats, where: NDArray[np.bool_]) -> float | None:
    """Return the mean over layers of each layer's mean over its positions ``where``."""
    means = [row[mine].mean() for row, mine in zip(values, where, strict=True) if mine.any()]
    return float(np.mean(means)) if means else None


@dataclass(frozen=True)
class Profile:
    """A pair's drift over items; arrays are (layers, kinds, quantiles), NaN in empty cells.

    ``low`` and ``high`` are the ends of the 95% interval of ``kl``; the fields stand in the order
    of the study's table.
    """

    count: NDArray[np.int_]
    base_entropy: Floats
    kl: Floats
    low: Floats
    high: Floats
    top1_agreement: Floats
    kl_where_agree: Floats


def profile(items: Floats, *, seed: int = 0) -> Profile:
    """Return means over all positions with item bootstrap intervals of the KL.

    ``items`` is (items, layers, kinds, quantiles, fields), one :func:`cells` each.
    """
    total = items.sum(0)
    count, agree = field(total, "count"), field(total, "agree")
    resampled = bootstrap_ratio(field(items, "kl"), field(items, "count"), seed=seed, draws=1000)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = percentile(np.where(count == 0, 0, resampled))
        return Profile(
            count=count.astype(int),
            base_entropy=field(total, "entropy") / count,
            kl=field(total, "kl") / count,
            low=np.where(count == 0, np.nan, low),
            high=np.where(count == 0, np.nan, high),
            top1_agreement=agree / count,
            kl_where_agree=field(total, "kl_where_agree") / agree,
        )


@dataclass(frozen=True)
class Contrast:
    """Size and shape of a drift, over all layers of one kind of position; NaN where there is none.

    ``mean_kl`` (nats) and top-1 ``agreement`` are means over all positions. ``low_minus_high`` is
    the mean KL of the lower half of the entropy quantiles minus that of the upper half, in nats (a
    middle quantile counts for neither); ``low_over_high`` is the same as a quotient, which a change
    of the whole drift's size leaves alone.
    """

    mean_kl: float
    agreement: float
    low_minus_high: float
    low_minus_high_interval: Interval
    low_over_high: float
    low_over_high_interval: Interval


def contrast(items: Floats, kind: str, *, seed: int = 0) -> Contrast:
    """Return how large the drift is, and whether low-entropy positions drift more.

    ``items`` is (items, layers, kinds, quantiles, fields), as in :func:`profile`.
    """
    total = items[:, :, KINDS.index(kind)].sum((0, 1, 2))
    means, resampled = _means(_halves(items, kind), seed)
    with np.errstate(invalid="ignore"):
        mean_kl, agreement = (field(total, of) / field(total, "count") for of in ("kl", "agree"))
    return Contrast(
        float(mean_kl),
        float(agreement),
        float(means[0] - means[1]),
        _interval(resampled[:, 0] - resampled[:, 1]),
        float(_quotient(means)),
        _interval(_quotient(resampled)),
    )


def against_null(
    items: Floats, null: Floats, kind: str, *, seed: int = 0
) -> tuple[float, Interval]:
    """Return log(ratio / ratio of the null), paired by item, with its interval.

    Above 0: relative to high-entropy positions, low-entropy ones drift more under the pair's
    training than under the null, so that the shape is not only what KL does to any change.
    """
    both = np.concatenate([_halves(items, kind), _halves(null, kind)], axis=1)
    means, resampled = _means(both, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, logs = (
            np.log(_quotient(m[..., :2])) - np.log(_quotient(m[..., 2:]))
            for m in (means, resampled)
        )
    return float(value), _interval(logs[np.isfinite(logs)])


def _halves(items: Floats, kind: str) -> Floats:
    """Return (items, 2, fields): sums of the lower and the upper half of the quantiles."""
    mine = items[:, :, KINDS.index(kind)].sum(1)
    half = mine.shape[1] // 2
    return np.stack([mine[:, :half].sum(1), mine[:, -half:].sum(1)], axis=1)


def _means(halves: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return the mean KL of each half (halves,), and resamples of it (draws, halves)."""
    kl, count = field(halves, "kl"), field(halves, "count")
    with np.errstate(invalid="ignore", divide="ignore"):
        return kl.sum(0) / count.sum(0), bootstrap_ratio(kl, count, seed=seed)


def _quotient(halves: Floats) -> Floats:
    """Return low / high of (…, 2); NaN where high is 0."""
    low, high = halves[..., 0], halves[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(high == 0, np.nan, low / high))


def _interval(samples: Floats) -> Interval:
    if len(samples) == 0 or np.isnan(samples).all():
        return Interval(float("nan"), float("nan"))
    low, high = percentile(samples)
    return Interval(float(low), float(high))
