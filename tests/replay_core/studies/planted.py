"""What one pair's studies wrote, planted: every number another one, so that any exchange shows."""

import json
from pathlib import Path
from typing import Any

Found = dict[str, Any]
STUDIES = ("chosen", "drift", "perturbation", "intervention", "grid", "controls", "passk")


def arm(name: str, difference: float, low: float, high: float, **values: Any) -> Found:
    """Return an arm's row as a trial writes it; ``values`` name what else is planted."""
    plain = {"arm": name, "n": 731, "baseline": 0.412, "score": 0.437, "fixed": 31, "broken": 17}
    plain |= {"p": 0.0423, "holm_p": 0.1234, "permutation_p": 0.0555, "masked": 0.678}
    plain |= {"minimum_detectable": 0.0345, "seconds": 1.234, "outcomes": "applied:731"}
    return {**plain, "difference": difference, "low": low, "high": high, **values}


def study(table: list[Found], findings: Found | None = None, **settings: Any) -> Found:
    """Return a study's JSON; an arms study's findings are its rows by name."""
    if findings is None:
        findings = {row["arm"]: row for row in table}
    return {"settings": settings, "table": table, "findings": findings, "seed": 0}


def config(**changes: Any) -> Found:
    """Return the pair's preset as the chosen study writes it."""
    plain = {"threshold": 0.37, "step_size": 2900.0, "steps": 23, "layers": 5, "select": "low"}
    return {"config": {**plain, "boundary": "aligned", **changes}}


def chosen() -> Found:
    rows = [
        arm("the pair's preset", 0.025, 0.0123, 0.0567),
        arm(
            *("best on the development split: γ=0.7 α=40", -0.031, -0.0648, -0.0072),
            **{"score": 0.381, "fixed": 12, "broken": 43, "p": 0.00321, "holm_p": 0.0128},
            **{"minimum_detectable": 0.0289, "masked": None, "seconds": 0.567},
        ),
    ]
    return study(rows, n=731, arms={"the pair's preset": config()})


def controls() -> Found:
    rows = [
        arm("base", -0.187, -0.221, -0.153, fixed=68, broken=255, p=1.4e-26, n=731),
        arm("replay", 0.008, -0.011, 0.029, fixed=41, broken=35, p=0.57, holm_p=0.91),
        arm("random x", 0.021, -0.004, 0.047, p=0.213, minimum_detectable=0.0412, fixed=29),
        arm("random mask", -0.054, -0.0876, -0.0219, p=0.00217, fixed=9, broken=48, n=729),
    ]
    return study(rows, n=731, batch_size=37)


def intervention() -> Found:
    rows = [
        arm("aligned visual low", 0.043, 0.0187, 0.0671, fixed=90, broken=47, p=0.00029),
        arm("aligned visual high", -0.062, -0.0934, -0.0311, fixed=21, broken=66, p=1.2e-06),
        arm("reference input low", 0.003, -0.0152, 0.0223, p=0.83, fixed=77, broken=75),
    ]
    return study(rows, n=733)


def drift() -> Found:
    def entry(kl: float, agreement: float, ratio: float, low: float, high: float) -> Found:
        return {
            "mean_kl": kl,
            "agreement": agreement,
            "low_over_high": ratio,
            "low_over_high_interval": [low, high],
            "low_minus_high": kl / 3,
            "low_minus_high_interval": [kl / 4, kl / 2],
        }

    def null(value: float, low: float, high: float) -> Found:
        return {"log_ratio_of_policy_to_this": value, "log_ratio_interval": [low, high]}

    findings = {
        "n": 287,
        "visual": {
            "policy": entry(0.0216, 0.871, 1.83, 1.52, 2.14),
            "sft twin": entry(0.0137, 0.902, 1.27, 1.11, 1.44) | null(0.37, 0.21, 0.52),
            "weight noise": entry(0.0042, 0.983, 2.46, 2.29, 2.63) | null(-0.29, -0.41, -0.18),
        },
        "text": {
            "policy": entry(0.113, 0.654, 0.71, 0.58, 0.84),
            "sft twin": entry(0.0961, 0.732, 0.93, 0.79, 1.08) | null(-0.27, -0.45, -0.08),
            "weight noise": entry(0.0574, 0.795, 1.04, 0.97, 1.12) | null(-0.38, -0.61, -0.17),
        },
    }
    return study([], findings, n=289)


def perturbation() -> Found:
    def entry(rho: float, low: float, high: float, n: int) -> Found:
        return {"rho": rho, "interval": [low, high], "n": n}

    findings = {
        "n": 97,
        "right": {
            "low": entry(0.41, 0.33, 0.48, 94),
            "low given high": entry(0.26, 0.17, 0.34, 93),
            "low given sigma": entry(0.07, -0.02, 0.15, 92),
            "high given low": entry(-0.12, -0.19, -0.04, 91),
        },
        "wrong": {
            "low": entry(-0.36, -0.44, -0.27, 76),
            "low given high": entry(-0.22, -0.31, -0.13, 74),
            "low given sigma": entry(-0.05, -0.14, 0.03, 73),
            "high given low": entry(0.16, 0.06, 0.24, 72),
        },
    }
    return study([], findings, n=98)


def grid() -> Found:
    def cell(gamma: float, alpha: float, difference: float, kind: str, **values: Any) -> Found:
        name = f"{'fixed as ' if kind == 'fixed' else ''}γ={gamma:g} α={alpha:g}"
        ends = {"low": difference - 0.02, "high": difference + 0.03}
        place = {"gamma": gamma, "alpha": alpha, "thresholds": kind}
        return arm(name, difference, **ends, **place, **values)

    rows = [
        cell(0.2, 2900, 0.017, "dynamic", fixed=14, broken=5, p=0.064, masked=0.312),
        cell(0.2, 40, 0.011, "dynamic", fixed=8, broken=3, p=0.23, masked=0.313),
        cell(0.2, 2900, -0.009, "fixed", fixed=6, broken=11, p=0.33, masked=0.297),
        cell(0.7, 2900, -0.024, "dynamic", fixed=2, broken=19, p=0.00022, masked=0.864),
        cell(0.7, 2900, 0.036, "fixed", fixed=23, broken=4, p=0.00031, masked=None),
    ]
    findings = {
        "cells": {row["arm"]: row for row in rows},
        "curves": {"γ=0.2 α=2900": [3.25, 1.75], "none": []},
        "thresholds": {"0.2": {"0": 0.31}},
        "fixed_thresholds_from": "the mean of γ·max entropy over 47 held-out documents",
        "own_step_size": 2900.0,
        "own_threshold": 0.2,
    }
    return study(rows, findings, n=149)


def passk() -> Found:
    curves = {
        "base": {1: 0.312, 2: 0.398, 4: 0.487, 8: 0.561},
        "policy": {1: 0.523, 2: 0.581, 4: 0.629, 8: 0.664},
        "policy + replay": {1: 0.541, 2: 0.607, 4: 0.658, 8: 0.703},
        "policy + inject": {1: 0.507, 2: 0.559, 4: 0.598, 8: 0.632},
    }
    gaps = {
        "base": (-0.103, -0.141, -0.066),
        "policy + replay": (0.039, 0.012, 0.067),
        "policy + inject": (-0.032, -0.071, 0.008),
    }
    table = []
    for name, curve in curves.items():
        for k, value in curve.items():
            row = {"arm": name, "k": k, "n": 193, "samples": 8, "pass": value}
            row |= {"low": value - 0.05, "high": value + 0.04}
            if name in gaps:
                # Smaller at a smaller k, so that a row of another k shows.
                gap, low, high = (value * k / 8 for value in gaps[name])
                row |= {"difference": gap, "difference_low": low, "difference_high": high}
            table.append(row)
    findings: Found = {name: {} for name in curves}
    for row in table:
        findings[row["arm"]][str(row["k"])] = row
    return study(table, findings, n=194, samples=8, temperature=0.9)


def pair() -> dict[str, Found]:
    """Return all that a pair's studies found; each call gives one of its own to change."""
    makers = (chosen, drift, perturbation, intervention, grid, controls, passk)
    return {make.__name__: make() for make in makers}


def write(folder: Path, found: dict[str, Found]) -> Path:
    """Write the studies' JSON files as the studies do."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STUDIES:
        (folder / f"{name}.json").write_text(json.dumps(found[name]))
    return folder
