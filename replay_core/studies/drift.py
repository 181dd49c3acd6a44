"""How far a policy's lens readings lie from its base's, by layer and by the base's certainty."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from replay_core.reading import Reading
from replay_core.seeds import stable_seed
from replay_core.studies.stats.resampling import Floats, Interval, bootstrap_ratio, percentile

KINDS = ("visual", "text")
FIELDS = ("count", "kl", "entropy", "agree", "kl_where_agree")


def cells(reading: Reading, quantiles: int) -> Floats:
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
            values = {
                "count": np.ones(total),
                "kl": divergence,
                "entropy": e,
                "agree": same,
                "kl_where_agree": divergence * same,
            }
            ordered = np.stack([values[name] for name in FIELDS], 1)
            np.add.at(table[layer, kind], bucket, ordered)
    return table


def field(table: Floats, name: str) -> Floats:
    """Return one of :data:`FIELDS` from a table whose last axis holds them."""
    return np.asarray(table[..., FIELDS.index(name)])


def means(items: Floats, kind: str) -> dict[str, float | None]:
    """Return ``mean_kl`` (nats) and top-1 ``agreement`` over all positions of one kind and layers.

    ``items`` is (items, layers, kinds, quantiles, fields); None where there is no such position.
    """
    total = items[:, :, KINDS.index(kind)].sum((0, 1, 2))
    count = field(total, "count")
    if not count:
        return {"mean_kl": None, "agreement": None}
    return {
        "mean_kl": float(field(total, "kl") / count),
        "agreement": float(field(total, "agree") / count),
    }


def changed(reading: Reading) -> Counter[tuple[str, int, int]]:
    """Count (kind, base's top id, policy's top id) where the two differ, over all layers."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for kind, mine in zip(KINDS, (reading.visual, ~reading.visual), strict=True):
        ours, theirs = reading.base_top[:, mine], reading.policy_top[:, mine]
        moved = ours != theirs
        counts.update(
            (kind, int(a), int(b)) for a, b in zip(ours[moved], theirs[moved], strict=True)
        )
    return counts


@dataclass(frozen=True)
class Profile:
    """A pair's drift over items; arrays are (layers, kinds, quantiles), NaN in empty cells."""

    n: int
    kl: Floats
    low: Floats
    high: Floats
    entropy: Floats
    agreement: Floats
    kl_where_agree: Floats
    count: Floats


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
            n=len(items),
            kl=field(total, "kl") / count,
            low=np.where(count == 0, np.nan, low),
            high=np.where(count == 0, np.nan, high),
            entropy=field(total, "entropy") / count,
            agreement=agree / count,
            kl_where_agree=field(total, "kl_where_agree") / agree,
            count=count,
        )


@dataclass(frozen=True)
class Contrast:
    """Low-entropy drift against high-entropy drift, over all layers of one kind of position.

    ``difference`` is the mean KL of the lower half of the entropy quantiles minus that of the upper
    half, in nats (a middle quantile counts for neither); ``ratio`` is the same as a quotient, which
    a change of the whole drift's size leaves alone.
    """

    difference: float
    interval: Interval
    ratio: float
    ratio_interval: Interval


def contrast(items: Floats, kind: str, *, seed: int = 0) -> Contrast:
    """Return whether low-entropy positions drift more; see :class:`Contrast`."""
    halves = _halves(items, kind)
    resampled = bootstrap_ratio(field(halves, "kl"), field(halves, "count"), seed=seed)
    low, high = _mean_of(halves)
    return Contrast(
        low - high,
        _interval(resampled[:, 0] - resampled[:, 1]),
        _quotient(low, high),
        _interval(_quotients(resampled)),
    )


def against_null(
    items: Floats, null: Floats, kind: str, *, seed: int = 0
) -> tuple[float, Interval]:
    """Return log(ratio / ratio of the null), paired by item, with its interval.

    Above 0: relative to high-entropy positions, low-entropy ones drift more under the pair's
    training than under the null, so that the shape is not only what KL does to any change.
    """
    ours, theirs = _halves(items, kind), _halves(null, kind)
    both = np.concatenate([ours, theirs], axis=1)
    resampled = bootstrap_ratio(field(both, "kl"), field(both, "count"), seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(_quotients(resampled[:, :2])) - np.log(_quotients(resampled[:, 2:]))
        value = np.log(_quotient(*_mean_of(ours))) - np.log(_quotient(*_mean_of(theirs)))
    return float(value), _interval(logs[np.isfinite(logs)])


def _halves(items: Floats, kind: str) -> Floats:
    """Return (items, 2, fields): sums of the lower and the upper half of the quantiles."""
    mine = items[:, :, KINDS.index(kind)].sum(1)
    half = mine.shape[1] // 2
    return np.stack([mine[:, :half].sum(1), mine[:, -half:].sum(1)], axis=1)


def _mean_of(halves: Floats) -> tuple[float, float]:
    total = halves.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = field(total, "kl") / field(total, "count")
    return float(low), float(high)


def _quotient(low: float, high: float) -> float:
    return low / high if high else float("nan")


def _quotients(halves: Floats) -> Floats:
    low, high = halves[:, 0], halves[:, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(high == 0, np.nan, low / high))


def _interval(samples: Floats) -> Interval:
    if len(samples) == 0 or np.isnan(samples).all():
        return Interval(float("nan"), float("nan"))
    low, high = percentile(samples)
    return Interval(float(low), float(high))


def noisy_twin(policy: PreTrainedModel, base: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Return the base with Gaussian noise on every weight tensor, of the norm of policy - base.

    The norm is matched tensor by tensor, so a tensor that training left alone is left alone. What
    drift this model shows is the answer to "is the profile only what any change would do?".
    """
    twin = copy.deepcopy(base)
    ours = dict(policy.named_parameters())
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            wanted = (ours[name].to(weight.device).float() - weight.float()).norm()
            if wanted == 0:
                continue
            generator = torch.Generator().manual_seed(stable_seed(seed, name))
            noise = torch.randn(weight.shape, generator=generator).to(weight.device)
            weight.copy_((weight.float() + noise * wanted / noise.norm()).to(weight.dtype))
    return twin.eval()


def top_changes(
    counts: Counter[tuple[str, int, int]], kind: str, most: int = 20
) -> Iterator[tuple[int, int, int]]:
    """Yield (base id, policy id, count) of the most frequent changes at one kind of position."""
    mine = Counter({(a, b): n for (k, a, b), n in counts.items() if k == kind})
    for (a, b), n in sorted(mine.items(), key=lambda item: (-item[1], item[0]))[:most]:
        yield a, b, n
