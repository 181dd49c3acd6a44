"""What the studies that look inside write, from their measured rows: no model, no harness."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from replay_core.reading import Reading
from replay_core.studies import drift, perturbation
from replay_core.studies.plots import draw_drift, draw_perturbation
from replay_core.studies.report import Row, write_study, write_table
from replay_core.studies.stats.resampling import Floats

Findings = dict[str, Any]
Decode = Callable[[Sequence[int]], Sequence[str]]


def drift_row(arm: str, document: int, reading: Reading, quantiles: int) -> Row:
    """Return what is kept of one prompt under one arm; word changes for the policy only."""
    counts = drift.changed(reading) if arm == "policy" else Counter()
    return {
        "arm": arm,
        "document": document,
        "cells": drift.cells(reading, quantiles),
        "changed": [[*key, count] for key, count in counts.most_common(200)],
    }


def write_drift(
    folder: Path,
    rows: Sequence[Row],
    documents: Sequence[int],
    *,
    settings: Mapping[str, Any],
    decode: Decode,
    seed: int,
) -> Findings:
    """Write profiles, contrasts with the nulls, word changes and the figure; return the findings.

    ``rows`` hold one :func:`drift_row` for every arm and document, in any order; ``decode`` gives
    the words of token ids.

    Raises:
        KeyError: an arm lacks a document.
    """
    kept = {(row["arm"], row["document"]): row for row in rows}
    # Arms are compared item by item, so every arm's items stand in the documents' order.
    cells = {
        arm: np.array([kept[arm, document]["cells"] for document in documents])
        for arm in dict.fromkeys(row["arm"] for row in rows)
    }
    findings = drift_findings(cells)
    profiles = {arm: drift.profile(array) for arm, array in cells.items()}
    table = [row for arm, found in profiles.items() for row in _profile_rows(arm, found)]
    settings = {**settings, "n": len(documents)}
    write_study(folder, "drift", settings=settings, table=table, findings=findings, seed=seed)
    changes = _changed_table([kept["policy", document] for document in documents], decode)
    write_table(folder / "drift_changed.csv", changes)
    draw_drift(folder / "drift.png", profiles, findings)
    return findings


def drift_findings(cells: Mapping[str, Floats]) -> Findings:
    """Return kind of position → arm → drift's size and shape, and a null's beside the policy's.

    ``cells`` is arm → (items, layers, kinds, quantiles, fields), the items of all arms in the same
    order; one arm is ``policy``.
    """
    found: Findings = {"n": len(cells["policy"])}
    for kind in drift.KINDS:
        found[kind] = {}
        for arm, array in cells.items():
            measured = drift.contrast(array, kind)
            entry: Row = {
                "low_minus_high": measured.difference,
                "low_minus_high_interval": measured.interval.ends,
                "low_over_high": measured.ratio,
                "low_over_high_interval": measured.ratio_interval.ends,
                **drift.means(array, kind),
            }
            if arm != "policy":
                value, interval = drift.against_null(cells["policy"], array, kind)
                entry["log_ratio_of_policy_to_this"] = value
                entry["log_ratio_interval"] = interval.ends
            found[kind][arm] = entry
    return found


def _profile_rows(arm: str, found: drift.Profile) -> list[Row]:
    rows = []
    for layer, kind, quantile in np.ndindex(found.kl.shape):
        at = (layer, kind, quantile)
        rows.append(
            {
                "arm": arm,
                "layer": layer,
                "positions": drift.KINDS[kind],
                "quantile": quantile + 1,
                "count": int(found.count[at]),
                "base_entropy": found.entropy[at],
                "kl": found.kl[at],
                "low": found.low[at],
                "high": found.high[at],
                "top1_agreement": found.agreement[at],
                "kl_where_agree": found.kl_where_agree[at],
            }
        )
    return rows


def _changed_table(rows: Sequence[Row], decode: Decode) -> list[Row]:
    """Return the most frequent changes of the lens' first word, from base to policy."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for row in rows:
        counts.update({(kind, base, policy): n for kind, base, policy, n in row["changed"]})
    table = []
    for kind in drift.KINDS:
        for base_id, policy_id, count in drift.top_changes(counts, kind):
            base_word, policy_word = decode([base_id, policy_id])
            row = {"positions": kind, "base": base_word, "policy": policy_word}
            table.append({**row, "count": count, "base_id": base_id, "policy_id": policy_id})
    return table or [{"positions": "none", "base": "", "policy": "", "count": 0}]


def write_perturbation(
    folder: Path,
    items: Sequence[Sequence[Mapping[str, Any]]],
    *,
    settings: Mapping[str, Any],
    seed: int,
) -> Findings:
    """Write the ladder of σ, the correlations and the figure; return the findings.

    ``items`` hold one list of points per item; see :func:`perturbation.correlate`.
    """
    findings: Findings = {"n": len(items)}
    for outcome in perturbation.OUTCOMES:
        findings[outcome] = {}
        for name, drifted, given in (
            ("low", "low", None),
            ("low given high", "low", "high"),
            ("low given sigma", "low", "sigma"),
            ("high given low", "high", "low"),
        ):
            measured = perturbation.correlate(items, outcome, given, drift=drifted)
            findings[outcome][name] = {
                "n": measured.n,
                "rho": measured.rho,
                "interval": measured.interval.ends,
            }
    table = perturbation.ladder(items)
    settings = {**settings, "n": len(items)}
    write_study(
        folder, "perturbation", settings=settings, table=table, findings=findings, seed=seed
    )
    draw_perturbation(folder / "perturbation.png", table, findings)
    return findings
