"""The studies that compare answers: intervention, grid, controls and Pass@K."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from replay_core import ReplayConfig, UsageError
from replay_core.studies import grid, passk
from replay_core.studies.answers import answer_rows, run_arms, scores
from replay_core.studies.arms import Arm, judge, rows_of
from replay_core.studies.bench import Bench
from replay_core.studies.figures import forest
from replay_core.studies.intervention import intervention_arms
from replay_core.studies.plots import draw_grid
from replay_core.studies.report import Row, write_study
from replay_core.studies.thresholds import dynamic_layers, found_on
from replay_core.studies.treatments import affordable_votes, control_arms

BASELINE = "none"
Findings = dict[str, Any]


def run_intervention(
    source: Bench,
    folder: Path,
    n: int | None,
    *,
    metric: str | None = None,
    positions: Sequence[str] = ("visual", "input"),
    boundaries: Sequence[str] = ("aligned", "reference"),
    seed: int = 0,
) -> Findings:
    """Put the base's activations in place of the policy's, arm by arm, against leaving them."""
    arms = intervention_arms(source.config, positions=positions, boundaries=boundaries)
    return arms_study(source, folder, "intervention", arms, n, metric, seed)


def run_controls(
    source: Bench,
    folder: Path,
    n: int | None,
    *,
    metric: str | None = None,
    votes: int | None = None,
    seed: int = 0,
) -> Findings:
    """Answer under every control arm; ``votes`` as many as replay's seconds buy where None."""
    documents = source.documents(n)
    config, depth = source.config, len(source.pair.policy.layers)
    if votes is None:
        votes = _votes(source, folder, documents, metric)
    return arms_study(
        source, folder, "controls", control_arms(config, votes, depth), n, metric, seed
    )


def _votes(source: Bench, folder: Path, documents: Sequence[int], metric: str | None) -> int:
    """Return how many plain answers cost as much as a replayed one, from the first documents.

    The seconds are those of the kept answers, so that a resumed study comes to the same number.
    """
    first = list(documents[: min(len(documents), max(source.batch_size, 16))])
    arms = control_arms(source.config, 1, len(source.pair.policy.layers))[:3]
    rows = run_arms(
        source, arms, first, answer_rows(folder, source, metric), metric=metric, label="timing"
    )
    seconds = {
        arm.name: fmean(row["seconds"] for row in rows if row["arm"] == arm.name) for arm in arms
    }
    return affordable_votes(seconds["replay"], seconds["none"])


def arms_study(
    source: Bench,
    folder: Path,
    study: str,
    arms: Sequence[Arm],
    n: int | None,
    metric: str | None,
    seed: int,
) -> Findings:
    """Answer under every arm and write table, JSON and figure; the first arm is the baseline."""
    documents = source.documents(n)
    rows = run_arms(
        source,
        arms,
        documents,
        answer_rows(folder, source, metric),
        metric=metric,
        label=study,
    )
    table = _judged(rows, seed)
    findings = {row["arm"]: row for row in table}
    settings = {
        **source.identity(),
        "metric": metric,
        "n": len(documents),
        "batch_size": source.batch_size,
        "arms": {arm.name: arm.settings() for arm in arms},
    }
    write_study(folder, study, settings=settings, table=table, findings=findings, seed=seed)
    points = [
        (
            f"{row['arm']}  {row['fixed']}/{row['broken']}  p={row['p']:.2g}",
            *(100 * row[key] for key in ("difference", "low", "high")),
        )
        for row in table
    ]
    baseline = table[0]["baseline"]
    forest(
        folder / f"{study}.png",
        points,
        title=f"{study}: difference from {BASELINE} ({baseline:.1%}, n = {len(documents)}); "
        "fixed/broken",
        xlabel="points, with 95% interval",
    )
    return findings


def _judged(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the arms' comparisons with the baseline, with outcomes and costs."""
    table = rows_of(judge(scores(rows), BASELINE, seed=seed))
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_arm[row["arm"]].append(row)
    for entry in table:
        mine = by_arm[entry["arm"]]
        counts = Counter(row["outcome"] for row in mine)
        before = [row["losses"][0] for row in mine if row["losses"]]
        after = [row["loss_after"] for row in mine if row["loss_after"] is not None]
        entry["outcomes"] = " ".join(f"{name}:{n}" for name, n in sorted(counts.items()))
        entry["loss_before"] = fmean(before) if before else None
        entry["loss_after"] = fmean(after) if after else None
        entry["masked"] = _mean_mask(mine)
        entry["seconds"] = fmean(row["seconds"] for row in mine)
        entry["tokens"] = fmean(row["new_tokens"] for row in mine)
        entry["truncated"] = fmean(row["truncated"] for row in mine)
    return table


def _mean_mask(rows: Sequence[Row]) -> float | None:
    shares = [share for row in rows for share in row["masked"].values()]
    return fmean(shares) if shares else None


def run_grid(
    source: Bench,
    folder: Path,
    n: int | None,
    *,
    gammas: Sequence[float] = grid.GAMMAS,
    alphas: Sequence[float] | None = None,
    held_out: int = 50,
    metric: str | None = None,
    seed: int = 0,
) -> Findings:
    """Answer at every γ and α, and with fixed thresholds found on ``held_out`` other documents.

    These are the thresholds that ``activation-replay thresholds`` finds there. The held-out
    documents are those behind the first ``n`` ones; where a task has none left, there are no arms
    with fixed thresholds, and the findings say so.
    """
    documents = source.documents(n)
    config = source.config
    alphas = grid.step_sizes(config) if alphas is None else sorted(alphas)
    others = _behind(source, documents, held_out)
    thresholds = _thresholds(source, others, gammas)
    arms = grid.grid_arms(config, gammas, alphas, thresholds)
    rows = run_arms(
        source, arms, documents, answer_rows(folder, source, metric), metric=metric, label="grid"
    )
    table = _judged(rows, seed)
    cells = {row["arm"]: row for row in table}
    curves = {
        arm.name: grid.mean_curve(
            [row["losses"] for row in rows if row["arm"] == arm.name], config.steps
        )
        for arm in arms
    }
    findings = {
        "cells": cells,
        "curves": curves,
        "thresholds": thresholds,
        "fixed_thresholds_from": (
            f"the mean of γ·max entropy over {len(others)} held-out documents"
            if others
            else "none left"
        ),
        "own_step_size": config.step_size,
        "own_threshold": config.threshold,
    }
    settings = {
        **source.identity(),
        "metric": metric,
        "n": len(documents),
        "gammas": list(gammas),
        "alphas": list(alphas),
        "held_out": held_out,
        "arms": {arm.name: arm.settings() for arm in arms},
    }
    write_study(folder, "grid", settings=settings, table=table, findings=findings, seed=seed)
    draw_grid(folder / "grid.png", gammas, alphas, cells, curves, config.step_size)
    return findings


def _behind(source: Bench, documents: Sequence[int], held_out: int) -> list[int]:
    """Return up to ``held_out`` documents behind the given ones; [] where there are no more."""
    if held_out <= 0:
        return []
    try:
        return source.documents(held_out, offset=max(documents) + 1)
    except UsageError:
        return []


def _thresholds(
    source: Bench, documents: Sequence[int], gammas: Sequence[float]
) -> dict[float, dict[int, float]]:
    """Return γ → layer → nats, found on held-out documents; nothing where there are none."""
    if not documents:
        return {}
    layers = dynamic_layers(source)
    found = found_on(source, documents, gammas)
    return {gamma: its.by_layer(layers) for gamma, its in zip(gammas, found, strict=True)}


def passk_arms(config: ReplayConfig) -> list[Arm]:
    """Return the four arms of the paper's Figure 6, with direct injection beside them."""
    plain = config.model_dump()

    def arm(name: str, method: str) -> Arm:
        return Arm(name, ReplayConfig(**{**plain, "method": method}))

    return [
        arm("base", "base"),
        arm("policy", "none"),
        arm("policy + replay", "replay"),
        arm("policy + inject", "inject"),
    ]


def run_passk(
    source: Bench,
    folder: Path,
    n: int | None,
    *,
    samples: int = 16,
    temperature: float = 1.0,
    metric: str | None = None,
    seed: int = 0,
) -> Findings:
    """Sample every arm's answers through the harness's class and write Pass@K."""
    documents = source.documents(n)
    arms = passk_arms(source.config)
    rows = run_arms(
        source,
        arms,
        documents,
        answer_rows(folder, source, metric),
        metric=metric,
        repeats=samples,
        sampling={"temperature": temperature},
        label="passk",
    )
    logged: dict[str, dict[Any, list[float]]] = {arm.name: defaultdict(list) for arm in arms}
    for row in rows:
        logged[row["arm"]][row["document"]].append(row["correct"])
    settings = {
        **source.identity(),
        "metric": metric,
        "n": len(documents),
        "samples": samples,
        "temperature": temperature,
        "arms": {arm.name: arm.settings() for arm in arms},
    }
    return write_passk(folder, logged, settings, baseline="policy", seed=seed)


def write_passk(
    folder: Path,
    logged: Mapping[str, passk.Samples],
    settings: Mapping[str, Any],
    *,
    baseline: str,
    seed: int = 0,
) -> Findings:
    """Write curves, differences from ``baseline`` and the figure of logged samples."""
    curves = {name: passk.curve(samples, seed=seed) for name, samples in logged.items()}
    gaps = {
        name: passk.difference(logged[baseline], samples, seed=seed)
        for name, samples in logged.items()
        if name != baseline
    }
    table = []
    for name, arm in curves.items():
        for index, k in enumerate(arm.ks):
            row = {
                "arm": name,
                "k": k,
                "n": arm.n,
                "samples": arm.samples,
                "pass": arm.estimate[index],
                "low": arm.low[index],
                "high": arm.high[index],
            }
            gap = gaps.get(name)
            if gap is not None and k in gap.ks:
                at = gap.ks.index(k)
                row |= {
                    "difference": gap.estimate[at],
                    "difference_low": gap.low[at],
                    "difference_high": gap.high[at],
                }
            table.append(row)
    findings: Findings = {name: {} for name in curves}
    for row in table:
        findings[row["arm"]][str(row["k"])] = row
    settings = {**settings, "baseline": baseline}
    write_study(folder, "passk", settings=settings, table=table, findings=findings, seed=seed)
    first = curves[baseline]
    title = f"Pass@K, n = {first.n} items, {first.samples} samples each, 95% item bootstrap"
    passk.draw(str(folder / "passk.png"), curves, title)
    return findings


def table_text(rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> str:
    """Return rows as an aligned table; ``columns`` are (field, format)."""
    head = [name for name, _ in columns]
    body = [
        ["-" if row.get(name) is None else f"{row[name]:{form}}" for name, form in columns]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *body]
    ]
    return "\n".join(lines)


ARM_COLUMNS = (
    ("arm", ""),
    ("n", "d"),
    ("baseline", ".3f"),
    ("score", ".3f"),
    ("difference", "+.3f"),
    ("low", "+.3f"),
    ("high", "+.3f"),
    ("fixed", "d"),
    ("broken", "d"),
    ("p", ".2g"),
    ("holm_p", ".2g"),
    ("minimum_detectable", ".3f"),
)
