"""RESULTS.md: sentences and tables filled from the JSON that the studies wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from replay_adapters.settings.resources import resource
from replay_adapters.studies.claims import claims_table
from replay_adapters.studies.markdown import Column, ends, number, points, share, table
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
    parts = [_head(sizes), "## The claims, in short\n\n" + claims_table(pairs)]
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
    claims = claims_table({pair: _read(folder) for pair, folder in folders.items()})
    readme.write_text(f"{head}{start}\n{claims}\n{end}{tail}", encoding="utf-8")


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
    columns: list[Column] = [
        ("arm", lambda row: row["arm"]),
        ("none", lambda row: f"{row['baseline']:.3f}"),
        ("score", lambda row: f"{row['score']:.3f}"),
        ("difference (points)", lambda row: points(row["difference"], row["low"], row["high"])),
        ("fixed/broken", lambda row: f"{row['fixed']}/{row['broken']}"),
        ("p", lambda row: f"{row['p']:.2g}"),
        ("Holm's p", lambda row: f"{row['holm_p']:.2g}"),
        ("MDE", lambda row: f"{100 * row['minimum_detectable']:.1f}"),
        ("masked", lambda row: share(row["masked"])),
        ("seconds", lambda row: f"{row['seconds']:.3f}"),
    ]
    return f"n = {study['table'][0]['n']}.\n\n{table(columns, study['table'])}"


def _drift_table(found: Found) -> str:
    def versus(row: Found) -> str:
        value = row.get("log_ratio_of_policy_to_this")
        return "" if value is None else f"{value:+.2f} {ends(row['log_ratio_interval'])}"

    columns: list[Column] = [
        ("positions", lambda row: row["positions"]),
        ("model", lambda row: row["model"]),
        ("mean KL (nats)", lambda row: number(row["mean_kl"])),
        ("top-1 agreement", lambda row: number(row["agreement"], ".3f")),
        (
            "KL low / KL high entropy",
            lambda row: f"{number(row['low_over_high'])} {ends(row['low_over_high_interval'])}",
        ),
        ("log ratio of policy to this", versus),
    ]
    rows = [
        {"positions": kind, "model": arm, **entry}
        for kind in ("visual", "text")
        for arm, entry in found[kind].items()
    ]
    return table(columns, rows)


def _rho_table(found: Found) -> str:
    columns: list[Column] = [
        ("answers", lambda row: row["answers"]),
        ("correlation", lambda row: row["correlation"]),
        ("items", lambda row: str(row["n"])),
        ("mean ρ", lambda row: f"{number(row['rho'], '+.2f')} {ends(row['interval'])}"),
    ]
    rows = [
        {"answers": outcome, "correlation": name, **entry}
        for outcome in ("right", "wrong")
        for name, entry in found[outcome].items()
    ]
    return table(columns, rows)


def _fixed_table(grid: Found) -> str:
    columns: list[Column] = [
        ("thresholds", lambda row: row["thresholds"]),
        ("difference (points)", lambda row: f"{100 * row['difference']:+.1f}"),
        ("fixed/broken", lambda row: f"{row['fixed']}/{row['broken']}"),
        ("p", lambda row: f"{row['p']:.2g}"),
        ("masked", lambda row: share(row["masked"])),
    ]
    cells, prefix = grid["findings"]["cells"], "fixed as "
    rows = []
    for arm in (row["arm"] for row in grid["table"] if row["arm"].startswith(prefix)):
        name = arm.removeprefix(prefix)
        rows.append({**cells[name], "thresholds": f"{name}, dynamic"})
        rows.append({**cells[arm], "thresholds": f"{name}, fixed per layer"})
    return table(columns, rows) if rows else "No documents were left for fixed thresholds."


def _pass_table(study: Found) -> str:
    ks = [k for k in (1, 2, 4, 8, 16) if any(row["k"] == k for row in study["table"])]
    last = str(ks[-1])

    def gap(row: Found) -> str:
        at = row[last]
        if at.get("difference") is None:
            return ""
        return points(at["difference"], at["difference_low"], at["difference_high"])

    def passed(k: str) -> Column:
        return f"Pass@{k}", lambda row: f"{row[k]['pass']:.3f}"

    columns: list[Column] = [("arm", lambda row: row["arm"])]
    columns += [passed(str(k)) for k in ks]
    columns.append((f"difference from policy @{last}", gap))
    rows = [{"arm": arm, **curve} for arm, curve in study["findings"].items()]
    return f"n = {study['table'][0]['n']} items.\n\n{table(columns, rows)}"


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
