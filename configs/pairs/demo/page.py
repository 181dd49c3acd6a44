"""RESULTS.md: sentences and tables filled from what the studies wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from claims import claims_table
from findings import Studies, read_studies
from tables import arms_table, drift_table, fixed_table, pass_table, rho_table, search_section

from replay_core import ReplayConfig
from replay_core.record import library_versions

LABELS = {
    "demo": "`demo`: RLVR on all question types",
    "demo_narrow": "`demo_narrow`: RLVR on two question types with a fast vision tower",
    "demo_drifted": "`demo_drifted`: destructive RL, constructed as a positive control",
}
CLAIMS = (
    "## The claims, in short\n\n"
    "Three embedded pairs answer the paper's claims on the test split; settings were chosen on "
    "another split. `demo` is RLVR on all question types. `demo_narrow` is the same RL, continued "
    "on two types by a fast vision tower: better than its base, worse than `demo`, and **searched "
    "for**. `demo_drifted` is **constructed**: destructive RL, a positive control. Each row says "
    "whether it was seen, how large it is with its 95% interval, fixed/broken items, and for a "
    "null the smallest difference that would have been found with 80% power (MDE).\n\n"
)


def write_page(path: Path, folders: Mapping[str, Path], sizes: Sequence[str]) -> Path:
    """Write the page from the studies' JSON files and return its path."""
    pairs = {pair: read_studies(folder) for pair, folder in folders.items()}
    parts = [_head(sizes), CLAIMS + claims_table(pairs)]
    for pair, found in pairs.items():
        parts += _pair(pair, found, folders[pair])
    parts.append(search_section(Path(__file__).parent / "search.csv"))
    parts.append(_setting(next(iter(pairs.values()))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _head(sizes: Sequence[str]) -> str:
    options = " ".join(sizes)
    return (
        "# What the embedded pairs show\n\n"
        f"Made by `make results` (`python configs/pairs/demo/results.py {options}`), which "
        "measures everything again and writes this page; no number here is typed by hand. "
        f"Versions: {', '.join(f'{k} {v}' for k, v in library_versions().items())}. All arms of a "
        "table answered byte-identical prompts, greedily unless said otherwise, scored by the "
        "task's own scorer; fixed/broken are items that turn right/wrong against the policy alone; "
        "p is the exact two-sided McNemar test, Holm's p is adjusted over the table; intervals are "
        "95% item bootstraps; MDE is the true difference that 80% of such tests would find. "
        "Seconds are of the clock, whatever else the machine did meanwhile, and so is the number "
        "of votes that they buy."
    )


def _pair(pair: str, found: Studies, folder: Path) -> list[str]:
    def figure(name: str, text: str) -> str:
        return f"![{text}](results/{pair}.{name}.png)"

    def command(study: str, task: str = "replay_demo") -> str:
        n = getattr(found, study).settings["n"]
        batch = found.controls.settings["batch_size"]
        return (
            f"`activation-replay {study} --pair {pair} --task {task} --n {n} --batch-size {batch}`"
        )

    chosen, grid = found.chosen, found.grid
    overlays = sorted(path.stem for path in folder.glob("overlay_*.png"))
    drift, noise = found.drift.result, found.perturbation.result
    preset = _preset(found)
    return [
        f"## {LABELS.get(pair, pair)}",
        f"Preset of the pair file: γ {preset.threshold:g}, α {preset.step_size:g}, "
        f"{preset.steps} steps, layers {preset.layers}, select `{preset.select}`, "
        f"{preset.boundary} reading, chosen on the development split only "
        f"([how](README.md)). Best cell of the development grid below (n = "
        f"{grid.settings['n']}), which has "
        "a row of its own where it is not the preset.",
        "### Replay and injection on the test split\n\n" + arms_table(chosen.result),
        f"### Drift\n\n{command('drift')}, n = {drift.n} prompts.\n\n"
        + drift_table(drift)
        + "\n\n"
        + figure("drift", "KL by layer and base entropy, with nulls"),
        f"### Perturbation\n\n{command('perturbation')}, {noise.n} items; Gaussian noise on the "
        "processor's pixel values. Within-item Spearman correlations of drift and log-perplexity, "
        "mean over items.\n\n"
        + rho_table(noise)
        + "\n\n"
        + figure("perturbation", "drift and perplexity under pixel noise"),
        f"### Intervention (Table 1's form)\n\n{command('intervention')}\n\n"
        + arms_table(found.intervention.result)
        + "\n\n"
        + figure("intervention", "injection arms against none"),
        "### Grid (Table 5's form, on the development split)\n\n"
        + command("grid", "replay_demo_dev")
        + f"; fixed thresholds: {grid.result.fixed_thresholds_from}.\n\n"
        + figure("grid", "points gained by γ and α, and loss curves")
        + "\n\n"
        + fixed_table(grid.result),
        f"### Controls\n\n{command('controls')}\n\n"
        + arms_table(found.controls.result)
        + "\n\n"
        + figure("controls", "control arms against none"),
        f"### Pass@K (Figure 6's form)\n\n{command('passk')}, "
        f"{found.passk.settings['samples']} samples at temperature "
        f"{found.passk.settings['temperature']:g}.\n\n"
        + pass_table(found.passk.result)
        + "\n\n"
        + figure("passk", "Pass@K by arm"),
        "### Items\n\n`activation-replay overlay --pair "
        + pair
        + "`: the items that replay changes most.\n\n"
        + "\n\n".join(figure(name, f"item {name.split('_')[1]}") for name in overlays),
    ]


def _preset(found: Studies) -> ReplayConfig:
    """Return the replay settings of the pair's file."""
    return ReplayConfig(**found.chosen.settings["arms"]["the pair's preset"]["config"])


def _setting(found: Studies) -> str:
    steps = _preset(found).steps
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
