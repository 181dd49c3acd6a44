"""RESULTS.md: sentences and tables filled from the JSON that the studies wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.resources import resource
from replay_adapters.studies.searched import search_section
from replay_core.record import library_versions

Found = dict[str, Any]
CLAIMS = ("<!-- claims: made by `make results` -->", "<!-- end of claims -->")
STUDIES = ("chosen", "drift", "perturbation", "intervention", "grid", "controls", "passk")
LABELS = {
    "demo": "`demo`: RLVR on all question types",
    "demo_narrow": "`demo_narrow`: RLVR on two question types with a fast vision tower",
    "demo_drifted": "`demo_drifted`: destructive RL, constructed as a positive control",
}


def write_page(path: Path, folders: Mapping[str, Path], sizes: Sequence[str]) -> Path:
    """Write the page from the studies' JSON files and return its path."""
    pairs = {pair: _read(folder) for pair, folder in folders.items()}
    parts = [_head(sizes), "## The claims, in short\n\n" + _claims(pairs)]
    for pair, found in pairs.items():
        parts += _pair(pair, found, folders[pair])
    parts.append(search_section(resource("configs") / "pairs" / "demo" / "search.csv"))
    parts.append(_setting(next(iter(pairs.values()))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def write_claims(readme: Path, folders: Mapping[str, Path]) -> None:
    """Put the table of claims between its two marks in a README.

    Raises:
        ValueError: the README lacks a mark.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = CLAIMS
    head, _, rest = text.partition(start)
    _, mark, tail = rest.partition(end)
    if not mark:
        raise ValueError(f"{readme} lacks the marks {start!r} … {end!r}")
    table = _claims({pair: _read(folder) for pair, folder in folders.items()})
    readme.write_text(f"{head}{start}\n{table}\n{end}{tail}", encoding="utf-8")


def _read(folder: Path) -> dict[str, Found]:
    return {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in STUDIES
    }


def _head(sizes: Sequence[str]) -> str:
    options = " ".join(sizes)
    return (
        "# What the embedded pairs show\n\n"
        f"Made by `make results` (`python -m replay_adapters.studies.results {options}`), which "
        "measures everything again and writes this page; no number here is typed by hand. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in library_versions().items())}. All arms of a "
        "table answered byte-identical prompts, greedily unless said otherwise, scored by the "
        "task's own scorer; fixed/broken are items that turn right/wrong against the policy alone; "
        "p is the exact two-sided McNemar test, Holm's p is adjusted over the table; intervals are "
        "95% item bootstraps; MDE is the true difference that 80% of such tests would find."
    )


def _claims(pairs: Mapping[str, Mapping[str, Found]]) -> str:
    """Return the paper's claims and what each pair says to them, in one table."""
    lines = ["| claim | " + " | ".join(f"`{p}`" for p in pairs) + " |"]
    lines.append("|---|" + "---|" * len(pairs))
    claims = (
        ("RLVR made the policy better than its base", _claim_policy),
        ("low-entropy activations drift more (visual positions)", _claim_drift("visual")),
        ("low-entropy activations drift more (text positions)", _claim_drift("text")),
        ("… more than under weight noise of the same norm (visual)", _claim_null("weight noise")),
        ("… more than in an SFT twin (visual)", _claim_null("sft twin")),
        ("less low-entropy drift, lower perplexity of right answers", _claim_rho("right", 1)),
        ("less low-entropy drift, higher perplexity of wrong answers", _claim_rho("wrong", -1)),
        ("injecting low-entropy base activations helps or keeps", _claim_arm("aligned visual low")),
        ("injecting high-entropy ones hurts", _claim_arm("aligned visual high")),
        ("replay improves accuracy (the pair's preset)", _claim_chosen),
        ("its control: random x of the same norms", _claim_control("random x")),
        (
            "its control: a random mask as large as the low-entropy one",
            _claim_control("random mask"),
        ),
        ("replay improves Pass@8", _claim_pass("8")),
    )
    for text, claim in claims:
        cells = [claim(found) for found in pairs.values()]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _claim_drift(kind: str) -> Any:
    def claim(found: Mapping[str, Found]) -> str:
        entry = found["drift"]["findings"][kind]["policy"]
        ratio, (low, high) = entry["low_over_high"], entry["low_over_high_interval"]
        if ratio is None or low is None:
            return "no drift at all"
        word = "**yes**" if low > 1 else "**the reverse**" if high < 1 else "not shown"
        return f"{word}: low/high {ratio:.2g} [{low:.2g}, {high:.2g}]"

    return claim


def _claim_null(null: str) -> Any:
    def claim(found: Mapping[str, Found]) -> str:
        entry = found["drift"]["findings"]["visual"].get(null)
        if entry is None:
            return "no such twin was given"
        value, (low, high) = entry["log_ratio_of_policy_to_this"], entry["log_ratio_interval"]
        if value is None or low is None:
            return "undefined: one of them does not drift"
        word = "**yes**" if low > 0 else "**the reverse**" if high < 0 else "not shown"
        return f"{word}: log ratio {value:+.2g} [{low:+.2g}, {high:+.2g}]"

    return claim


def _claim_rho(outcome: str, sign: int) -> Any:
    def claim(found: Mapping[str, Found]) -> str:
        entry = found["perturbation"]["findings"][outcome]["low given high"]
        rho, (low, high) = entry["rho"], entry["interval"]
        if rho is None:
            return "undefined"
        fits = low > 0 if sign > 0 else high < 0
        against = high < 0 if sign > 0 else low > 0
        word = "**yes**" if fits else "**the reverse**" if against else "not shown"
        return f"{word}: partial ρ {rho:+.2f} [{low:+.2f}, {high:+.2f}], n = {entry['n']}"

    return claim


def _claim_arm(arm: str) -> Any:
    def claim(found: Mapping[str, Found]) -> str:
        return _told(found["intervention"]["findings"][arm])

    return claim


def _claim_control(arm: str) -> Any:
    def claim(found: Mapping[str, Found]) -> str:
        return _told(found["controls"]["findings"][arm])

    return claim


def _claim_policy(found: Mapping[str, Found]) -> str:
    """Return what the policy gained on its base: the row of the base, read backwards."""
    row = found["controls"]["findings"]["base"]
    turned = {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}
    return _told(row | turned | {"fixed": row["broken"], "broken": row["fixed"]})


def _claim_chosen(found: Mapping[str, Found]) -> str:
    return _told(found["chosen"]["findings"]["the pair's preset"])


def _claim_pass(k: str) -> Any:
    def claim(found: Mapping[str, Found]) -> str:
        row = found["passk"]["findings"]["policy + replay"].get(k)
        if row is None:
            return "too few samples"
        low, high = row["difference_low"], row["difference_high"]
        word = "**yes**" if low > 0 else "**the reverse**" if high < 0 else "not shown"
        ends = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
        return f"{word}: {100 * row['difference']:+.1f} points {ends}, n = {row['n']}"

    return claim


def _told(row: Found) -> str:
    """Return an arm's difference in points with everything that a reader needs beside it."""
    clear = row["p"] < 0.05
    word = ("**gain**" if row["difference"] > 0 else "**loss**") if clear else "no difference shown"
    mde = "" if clear else f", MDE {100 * row['minimum_detectable']:.1f}"
    return (
        f"{word}: {100 * row['difference']:+.1f} points [{100 * row['low']:+.1f}, "
        f"{100 * row['high']:+.1f}], {row['fixed']}/{row['broken']}, p = {row['p']:.2g}"
        f"{mde}, n = {row['n']}"
    )


def _pair(pair: str, found: Mapping[str, Found], folder: Path) -> list[str]:
    def figure(name: str, text: str) -> str:
        return f"![{text}](results/{pair}.{name}.png)"

    def command(study: str, task: str = "replay_demo") -> str:
        n = found[study]["settings"]["n"]
        batch = found["controls"]["settings"]["batch_size"]
        return (
            f"`activation-replay {study} --pair {pair} --task {task} --n {n} --batch-size {batch}`"
        )

    chosen, grid = found["chosen"], found["grid"]
    overlays = sorted(path.stem for path in folder.glob("overlay_*.png"))
    drift, noise = found["drift"]["findings"], found["perturbation"]["findings"]
    preset = chosen["settings"]["arms"]["the pair's preset"]["config"]
    return [
        f"## {LABELS.get(pair, pair)}",
        f"Preset of the pair file: γ {preset['threshold']:g}, α {preset['step_size']:g}, "
        f"{preset['steps']} steps, layers {preset['layers']}, select `{preset['select']}`, "
        f"{preset['boundary']} reading, chosen on the development split only "
        f"([how](README.md)). Best cell of the development grid below (n = "
        f"{grid['settings']['n']}), which has "
        "a row of its own where it is not the preset.",
        "### Replay and injection on the test split\n\n" + _arms(chosen),
        f"### Drift\n\n{command('drift')}, n = {drift['n']} prompts.\n\n"
        + _drift_table(drift)
        + "\n\n"
        + figure("drift", "KL by layer and base entropy, with nulls"),
        f"### Perturbation\n\n{command('perturbation')}, {noise['n']} items; Gaussian noise on the "
        "processor's pixel values. Within-item Spearman correlations of drift and log-perplexity, "
        "mean over items.\n\n"
        + _rho_table(noise)
        + "\n\n"
        + figure("perturbation", "drift and perplexity under pixel noise"),
        f"### Intervention (Table 1's form)\n\n{command('intervention')}\n\n"
        + _arms(found["intervention"])
        + "\n\n"
        + figure("intervention", "injection arms against none"),
        "### Grid (Table 5's form, on the development split)\n\n"
        + command("grid", "replay_demo_dev")
        + f"; fixed thresholds: {grid['findings']['fixed_thresholds_from']}.\n\n"
        + figure("grid", "points gained by γ and α, and loss curves")
        + "\n\n"
        + _fixed_table(grid),
        f"### Controls\n\n{command('controls')}\n\n"
        + _arms(found["controls"])
        + "\n\n"
        + figure("controls", "control arms against none"),
        f"### Pass@K (Figure 6's form)\n\n{command('passk')}, "
        f"{found['passk']['settings']['samples']} samples at temperature "
        f"{found['passk']['settings']['temperature']:g}.\n\n"
        + _pass_table(found["passk"])
        + "\n\n"
        + figure("passk", "Pass@K by arm"),
        "### Items\n\n`activation-replay overlay --pair "
        + pair
        + "`: the items that replay changes most.\n\n"
        + "\n\n".join(figure(name, f"item {name.split('_')[1]}") for name in overlays),
    ]


def _arms(study: Found) -> str:
    head = (
        "| arm | none | arm | difference (points) | fixed/broken | p | Holm's p | MDE | masked | "
        "seconds |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    rows = []
    for row in study["table"]:
        masked = "" if row["masked"] is None else f"{row['masked']:.2f}"
        rows.append(
            f"| {row['arm']} | {row['baseline']:.3f} | {row['score']:.3f} | "
            f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] | "
            f"{row['fixed']}/{row['broken']} | {row['p']:.2g} | {row['holm_p']:.2g} | "
            f"{100 * row['minimum_detectable']:.1f} | {masked} | {row['seconds']:.3f} |"
        )
    n = study["table"][0]["n"]
    return "\n".join([f"n = {n}.", "", head, *rows])


def _drift_table(found: Found) -> str:
    lines = [
        "| positions | model | mean KL (nats) | top-1 agreement | KL low / KL high entropy | "
        "log ratio of policy to this |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("visual", "text"):
        for arm, entry in found[kind].items():
            versus = entry.get("log_ratio_of_policy_to_this")
            interval = entry.get("log_ratio_interval")
            told = "" if versus is None else f"{versus:+.2f} {_ends(interval)}"
            lines.append(
                f"| {kind} | {arm} | {_number(entry['mean_kl'])} | "
                f"{_number(entry['agreement'], '.3f')} | {_number(entry['low_over_high'])} "
                f"{_ends(entry['low_over_high_interval'])} | {told} |"
            )
    return "\n".join(lines)


def _rho_table(found: Found) -> str:
    lines = ["| answers | correlation | items | mean ρ |", "|---|---|---|---|"]
    for outcome in ("right", "wrong"):
        for name, entry in found[outcome].items():
            lines.append(
                f"| {outcome} | {name} | {entry['n']} | {_number(entry['rho'], '+.2f')} "
                f"{_ends(entry['interval'])} |"
            )
    return "\n".join(lines)


def _fixed_table(grid: Found) -> str:
    fixed = [row for row in grid["table"] if row["arm"].startswith("fixed")]
    if not fixed:
        return "No documents were left for fixed thresholds."
    lines = [
        "| thresholds | difference (points) | fixed/broken | p | masked |",
        "|---|---|---|---|---|",
    ]
    for row in fixed:
        name = row["arm"].removeprefix("fixed as ")
        for arm in (name, row["arm"]):
            cell = grid["findings"]["cells"][arm]
            kind = "dynamic" if arm == name else "fixed per layer"
            masked = "" if cell["masked"] is None else f"{cell['masked']:.2f}"
            lines.append(
                f"| {name}, {kind} | {100 * cell['difference']:+.1f} | "
                f"{cell['fixed']}/{cell['broken']} | {cell['p']:.2g} | {masked} |"
            )
    return "\n".join(lines)


def _pass_table(study: Found) -> str:
    ks = [k for k in (1, 2, 4, 8, 16) if any(row["k"] == k for row in study["table"])]
    lines = [
        "| arm | " + " | ".join(f"Pass@{k}" for k in ks) + f" | difference from policy @{ks[-1]} |",
        "|---|" + "---|" * (len(ks) + 1),
    ]
    for arm, curve in study["findings"].items():
        cells = [f"{curve[str(k)]['pass']:.3f}" for k in ks]
        last = curve[str(ks[-1])]
        gap = last.get("difference")
        told = (
            ""
            if gap is None
            else (
                f"{100 * gap:+.1f} [{100 * last['difference_low']:+.1f}, "
                f"{100 * last['difference_high']:+.1f}]"
            )
        )
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {told} |")
    n = study["table"][0]["n"]
    return "\n".join([f"n = {n} items.", "", *lines])


def _setting(found: Mapping[str, Found]) -> str:
    steps = found["chosen"]["settings"]["arms"]["the pair's preset"]["config"]["steps"]
    return (
        "## What differs from the paper's setting\n\n"
        "- Models of about 1.5 M parameters and a vocabulary of words, not 7 B; 16 visual tokens, "
        "not about 1,000; synthetic pictures; answers of at most 16 tokens.\n"
        "- α does not transfer: the step on one token shrinks about with the square of the number "
        f"of visual tokens. The pair's own α stands beside the published ones in the grid ({steps} "
        "steps as published).\n"
        "- float32 arithmetic and the `aligned` reading, unless a row says `reference`; the "
        "release runs bfloat16.\n"
        "- The base's lens was trained to name what is in a cell, so low entropies are common; "
        "`demo_drifted` was made, and `demo_narrow` searched for, so that damage lies where the "
        "lens can read it.\n"
        "- Drift quantiles are within a prompt and layer, as the method's mask is.\n"
        "- Self-consistency votes over as many answers as replay's measured seconds buy on this "
        "machine; on another the number may differ.\n"
        "- Nothing here says how large the effect is on published 7 B pairs; the same commands "
        "with `--pair mm_eureka_7b --task …` ask them."
    )


def _number(value: float | None, form: str = ".2g") -> str:
    return "undefined" if value is None else f"{value:{form}}"


def _ends(interval: Sequence[float | None] | None) -> str:
    if not interval or None in interval:
        return ""
    low, high = interval
    return f"[{low:.2g}, {high:.2g}]"
