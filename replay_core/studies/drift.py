"""Does the policy drift more where its base was sure? KL by layer and by the base's entropy.

Both lenses are read at every position of a task's prompts, and the mean of KL(base ‖ policy) is
taken by layer, by kind of position and by quantile of the base's entropy. As KL has a shape of its
own under any change, nulls are measured beside the policy: its base with weight noise of the
training's norm, and a checkpoint that was trained otherwise, where there is one.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LogNorm
from pydantic import Field
from tqdm import tqdm
from transformers import PreTrainedModel

from replay_core.pair.loading import load_model
from replay_core.pair.lora import adapter_layers
from replay_core.pair.pair import Pair, make_pair
from replay_core.reading import Reading, read
from replay_core.seeds import stable_seed
from replay_core.studies.bench import Bench, chunks
from replay_core.studies.figures import BLUE, GREY, PALETTE, canvas, save
from replay_core.studies.report import Row, Rows, write_study, write_table
from replay_core.studies.result import Ends, Number, Result, shown
from replay_core.studies.stats.profile import (
    KINDS,
    Changes,
    Profile,
    against_null,
    cells,
    changed,
    contrast,
    profile,
    top_changes,
)
from replay_core.studies.stats.resampling import Floats


class Shape(Result):
    """One model's drift from the base at one kind of position, over all layers."""

    mean_kl: Number = Field(description="mean KL(base ‖ model) of all positions, in nats")
    agreement: Number = Field(description="share of positions where both have the same top-1 word")
    low_minus_high: Number = Field(
        description="mean KL at the lower half of the entropy quantiles minus the upper's, in nats"
    )
    low_minus_high_interval: Ends
    low_over_high: Number = Field(description="mean KL at the lower half over that at the upper")
    low_over_high_interval: Ends
    log_ratio_of_policy_to_this: Number = Field(
        None,
        description="log of the policy's low_over_high over this null's; not given for the policy",
    )
    log_ratio_interval: Ends = (None, None)


class DriftResult(Result):
    """The drift of ``policy`` and of each null, by kind of position."""

    n: int = Field(description="number of prompts")
    visual: dict[str, Shape] = Field(description="model → drift at image and video tokens")
    text: dict[str, Shape] = Field(description="model → drift at all other tokens")

    def told(self, pair: str, task: str) -> str:
        """Return one line per kind of position and model, for people."""
        lines = [f"Drift of {pair} on {task}, n = {self.n}"]
        for kind in KINDS:
            for model, shape in getattr(self, kind).items():
                low, high = map(shown, shape.low_over_high_interval)
                lines.append(
                    f"  {kind:<7}{model:<14}mean KL {shape.mean_kl or 0:.3g} nats, low/high "
                    f"entropy {shown(shape.low_over_high):.3g} [{low:.3g}, {high:.3g}]"
                )
        return "\n".join(lines)


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    quantiles: int = 5,
    null_policy: str | None = None,
    seed: int = 0,
) -> DriftResult:
    """Measure drift on the first ``n`` documents' prompts and write ``drift`` files to ``folder``.

    ``null_policy`` is a checkpoint trained otherwise than by RL, as an SFT twin; weight noise
    (drawn from ``seed``) is always measured, except for LoRA pairs, which are one model.
    """
    documents = bench.documents(n)
    pairs = {"policy": bench.pair, **_nulls(bench.pair, null_policy, seed)}
    settings = {
        **bench.identity(),
        "quantiles": quantiles,
        "noise_seed": seed,
        "nulls": {name: pair.policy_revision for name, pair in pairs.items() if name != "policy"},
    }
    rows = Rows(folder, "drift", settings, ("arm", "document"))
    with tqdm(total=len(documents) * len(pairs), desc="drift", unit="prompt") as bar:
        for chunk in chunks(bench, documents):
            if not all((arm, d) in rows for arm in pairs for d in chunk):
                for prompts in bench.prompts(chunk):
                    for arm, pair in pairs.items():
                        readings = zip(prompts.documents, read(pair, prompts.inputs), strict=True)
                        rows.add([row_of(arm, d, reading, quantiles) for d, reading in readings])
            bar.update(len(chunk) * len(pairs))
    return report(folder, rows, documents, settings=settings, decode=bench.decode, seed=seed)


def _nulls(pair: Pair, null_policy: str | None, seed: int) -> dict[str, Pair]:
    """Return the nulls of a pair, with the pair's base as theirs."""
    nulls, base = {}, pair.base.model
    if null_policy is not None:
        twin = load_model(null_policy, dtype=base.dtype, device_map=str(base.device))
        nulls["sft twin"] = make_pair(twin, base)
    if not adapter_layers(pair.policy.model):
        noisy = make_pair(noisy_twin(pair.policy.model, base, seed), base)
        revision = f"noise of {pair.policy_revision}"
        nulls["weight noise"] = replace(noisy, policy_revision=revision)
    return nulls


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


def row_of(arm: str, document: int, reading: Reading, quantiles: int) -> Row:
    """Return what is kept of one prompt under one arm; word changes for the policy only."""
    changes = changed(reading).most_common(200) if arm == "policy" else []
    return {
        "arm": arm,
        "document": document,
        "cells": cells(reading, quantiles),
        "changed": [[*key, count] for key, count in changes],
    }


def report(
    folder: Path,
    rows: Iterable[Row],
    documents: Sequence[int],
    *,
    settings: Mapping[str, Any],
    decode: Callable[[Sequence[int]], Sequence[str]],
    seed: int,
) -> DriftResult:
    """Write profiles, contrasts with the nulls, word changes and the figure.

    ``rows`` hold one :func:`row_of` for every arm and document, in any order; ``decode`` gives the
    words of token ids.

    Raises:
        KeyError: an arm lacks a document.
    """
    kept = {(row["arm"], row["document"]): row for row in rows}
    # Arms are compared item by item, so every arm's items stand in the documents' order.
    items = {
        arm: np.array([kept[arm, document]["cells"] for document in documents])
        for arm in dict.fromkeys(arm for arm, _ in kept)
    }
    result = DriftResult(n=len(documents), **{kind: _shapes(items, kind) for kind in KINDS})
    profiles = {arm: profile(array) for arm, array in items.items()}
    write_study(
        folder,
        "drift",
        settings={**settings, "n": len(documents)},
        table=[row for arm, found in profiles.items() for row in _profile_rows(arm, found)],
        findings=result.findings(),
        seed=seed,
    )
    changes = _changed_rows([kept["policy", document] for document in documents], decode)
    write_table(folder / "drift_changed.csv", changes)
    draw(folder / "drift.png", profiles, result)
    return result


def _shapes(items: Mapping[str, Floats], kind: str) -> dict[str, Shape]:
    """Return each arm's shape, a null's with the policy's beside it.

    ``items`` is arm → (items, layers, kinds, quantiles, fields), of all arms in the same order.
    """
    shapes = {}
    for arm, array in items.items():
        versus: dict[str, Any] = {}
        if arm != "policy":
            value, interval = against_null(items["policy"], array, kind)
            versus = {"log_ratio_of_policy_to_this": value, "log_ratio_interval": interval}
        shapes[arm] = Shape(**vars(contrast(array, kind)), **versus)
    return shapes


def _profile_rows(arm: str, found: Profile) -> list[Row]:
    rows = []
    for at in np.ndindex(found.kl.shape):
        layer, kind, quantile = at
        cell = {"arm": arm, "layer": layer, "positions": KINDS[kind], "quantile": quantile + 1}
        rows.append({**cell, **{name: values[at] for name, values in vars(found).items()}})
    return rows


def _changed_rows(rows: Sequence[Row], decode: Callable[..., Sequence[str]]) -> list[Row]:
    """Return the most frequent changes of the lens' first word, from base to policy."""
    counts: Changes = Changes()
    for row in rows:
        counts.update({(kind, base, policy): n for kind, base, policy, n in row["changed"]})
    table = []
    for kind in KINDS:
        for base_id, policy_id, count in top_changes(counts, kind):
            base_word, policy_word = decode([base_id, policy_id])
            row = {"positions": kind, "base": base_word, "policy": policy_word}
            table.append({**row, "count": count, "base_id": base_id, "policy_id": policy_id})
    return table or [{"positions": "none", "base": "", "policy": "", "count": 0}]


def draw(path: Path, profiles: Mapping[str, Profile], result: DriftResult) -> None:
    """Draw KL by layer and entropy quantile, and its profile beside the nulls'."""
    policy = profiles["policy"]
    figure, axes = canvas(14.5, 4.2, 4, width_ratios=(1, 1, 1.15, 1.15))
    for kind, name in enumerate(KINDS):
        _heat(figure, axes[kind], policy.kl[:, kind], name)
        one = axes[2 + kind]
        for colour, (arm, found) in zip((BLUE, *PALETTE[3:]), profiles.items(), strict=False):
            count = found.count[:, kind]
            with np.errstate(invalid="ignore", divide="ignore"):
                shape = np.nansum(found.kl[:, kind] * count, 0) / count.sum(0)
                shape = shape / np.nanmean(shape) if count.any() else shape
            x = np.arange(1, len(shape) + 1)
            line = "-" if arm == "policy" else "--"
            one.plot(x, shape, line, marker="o", markersize=4, label=arm, color=colour)
        ratio = getattr(result, name)["policy"].low_over_high
        quotient = "no drift" if ratio is None else f"{ratio:.2g}"
        one.set(
            title=f"{name}: KL relative to its mean\n(lower half / upper half: {quotient})",
            xlabel="base entropy quantile (low → high)",
        )
        one.set_xticks(x)
        one.set_ylim(bottom=0)
        one.axhline(1, color=GREY, linewidth=1, zorder=0)
        one.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Drift of the policy from its base, KL(base ‖ policy), n = {result.n} prompts")
    save(figure, path)


def _heat(figure: Any, axes: Any, values: Floats, name: str) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    norm = None
    if len(positive):
        low, high = float(positive.min()), float(positive.max())
        norm = LogNorm(max(low, high * 1e-4), high if high > low else low * 1.01, clip=True)
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="magma", norm=norm)
    if norm is not None:
        figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    axes.set(title=f"{name} positions: mean KL (nats)", xlabel="base entropy quantile")
    axes.set_ylabel("after layer")
    axes.set_xticks(range(values.shape[1]), range(1, values.shape[1] + 1))
    if len(values) <= 12:
        axes.set_yticks(range(len(values)))
