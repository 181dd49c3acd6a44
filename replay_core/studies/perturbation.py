"""Does a small low-entropy drift go with answers that are easier to say? Pixel noise as the lever.

Within one item the picture is noised to several degrees; at each the drift of low- and of
high-entropy visual positions and the teacher-forced perplexity of right and of wrong answers are
measured, and correlated by rank over the item's points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from replay_core.errors import UsageError
from replay_core.model.vision import PIXELS, Inputs
from replay_core.reading import read
from replay_core.result import ReplayResult
from replay_core.seeds import stable_seed
from replay_core.steered import Steered
from replay_core.studies.answers import Answered, run_arms
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench
from replay_core.studies.figures import BLUE, GREEN, GREY, RED, canvas, save
from replay_core.studies.report import Row, Rows, write_study
from replay_core.studies.result import Ends, Number, Result, shown
from replay_core.studies.stats.profile import split_drift
from replay_core.studies.stats.rank import OUTCOMES, Point, correlate, ladder

SIGMAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
CORRELATIONS = {
    "low": ("low", None),
    "low given high": ("low", "high"),
    "low given sigma": ("low", "sigma"),
    "high given low": ("high", "low"),
}
"""Name → (drift that is correlated with log-perplexity, what is held fixed)."""


class Rho(Result):
    """Spearman's rank correlation of drift and log-perplexity within items."""

    n: int = Field(description="number of items that have one")
    rho: Number = Field(description="mean over these items, from -1 to 1")
    interval: Ends


class PerturbationResult(Result):
    """The correlations of :data:`CORRELATIONS`, for right and for wrong answers."""

    n: int = Field(description="number of items")
    right: dict[str, Rho] = Field(description="correlations with right answers' log-perplexity")
    wrong: dict[str, Rho] = Field(description="correlations with wrong answers' log-perplexity")

    def told(self) -> str:
        """Return one line per kind of answer and correlation, for people."""
        lines = [f"Within-item Spearman of drift and log-perplexity, {self.n} items"]
        for outcome in OUTCOMES:
            for name, found in getattr(self, outcome).items():
                low, high = map(shown, found.interval)
                lines.append(
                    f"  {outcome} answers, {name:<16}ρ = {shown(found.rho):+.3f} "
                    f"[{low:+.3f}, {high:+.3f}], n = {found.n}"
                )
        return "\n".join(lines)


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 2,
    samples: int = 8,
    metric: str | None = None,
    seed: int = 0,
) -> PerturbationResult:
    """Noise every picture ``draws`` times to each σ and write ``perturbation`` files to ``folder``.

    Right and wrong answers are the policy's own, ``samples`` of them drawn at temperature 1 from
    the clean picture and judged by the task's scorer; an item without one kind is left out of that
    correlation.

    Raises:
        UsageError: a document has no picture.
    """
    documents = bench.documents(n)
    answers = run_arms(
        bench,
        folder,
        [Arm("policy, sampled", bench.config.changed(method="none"))],
        documents,
        metric=metric,
        repeats=samples,
        sampling={"temperature": 1.0},
        label="sampled answers",
    )
    rungs = [(s, d) for s in sigmas for d in range(draws if s > 0 else 1)]
    settings = {
        **bench.identity(),
        "metric": metric,
        "noise": "Gaussian on the processor's pixel values",
        "points": rungs,
        "samples": samples,
        "threshold": bench.config.threshold,
        "layers": list(_layers(bench)),
        "seed": seed,
    }
    rows = Rows(folder, "perturbation", settings, ("document",))
    texts = _by_verdict(answers)
    for document in tqdm(documents, desc="perturbation", unit="item"):
        if (document,) not in rows:
            measured = _measure(bench, document, texts[document], rungs, seed)
            rows.add([{"document": document, "points": [asdict(point) for point in measured]}])
    found = {row["document"]: [Point(**point) for point in row["points"]] for row in rows}
    items = [found[document] for document in documents]
    return report(folder, items, settings=settings, seed=seed)


def _layers(bench: Bench) -> tuple[int, ...]:
    return bench.config.layer_indices(len(bench.pair.policy.layers))


def _by_verdict(answers: Sequence[Answered]) -> dict[int, dict[str, list[str]]]:
    """Return document → right and wrong → distinct texts."""
    found: dict[int, dict[str, list[str]]] = {}
    for one in answers:
        mine = found.setdefault(one.document, {outcome: [] for outcome in OUTCOMES})
        texts = mine["right" if one.correct >= 0.5 else "wrong"]
        if one.text and one.text not in texts:
            texts.append(one.text)
    return found


def _measure(
    bench: Bench,
    document: int,
    texts: Mapping[str, Sequence[str]],
    rungs: Sequence[tuple[float, int]],
    seed: int,
) -> list[Point]:
    """Return drift and log-perplexities of one document at every (σ, draw)."""
    (prompts,) = bench.prompts([document])
    if not any(name in prompts.inputs for name in PIXELS):
        raise UsageError(f"document {document} has no picture to add noise to")
    measured = []
    for start in range(0, len(rungs), bench.batch_size):
        part = rungs[start : start + bench.batch_size]
        batch = noised(prompts.inputs, part, bench.seed(document, seed=seed))
        right, wrong = (_log_perplexity(bench, batch, texts[outcome]) for outcome in OUTCOMES)
        readings = read(bench.pair, batch, _layers(bench))
        for number, ((sigma, draw), reading) in enumerate(zip(part, readings, strict=True)):
            low, high = split_drift(reading, bench.config.threshold)
            measured.append(Point(sigma, draw, low, high, right[number], wrong[number]))
    return measured


def noised(inputs: Inputs, rungs: Sequence[tuple[float, int]], seed: int) -> dict[str, Tensor]:
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
        name: value.repeat(len(rungs), *[1] * (value.ndim - 1)) for name, value in inputs.items()
    }
    for name in PIXELS:
        if name not in inputs:
            continue
        clean = inputs[name]
        for number, (sigma, draw) in enumerate(rungs):
            generator = torch.Generator().manual_seed(stable_seed(seed, sigma, draw))
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            rows = slice(number * len(clean), (number + 1) * len(clean))
            copies[name][rows] = clean + sigma * noise
    return copies


def _log_perplexity(
    bench: Bench, batch: Mapping[str, Tensor], texts: Sequence[str]
) -> list[float] | list[None]:
    """Return the mean negative log-likelihood per token over texts, for each copy, in nats.

    None for each where there is no text.
    """
    ids = batch["input_ids"]
    if not texts:
        return [None] * len(ids)
    steered = Steered(bench.pair, bench.config.changed(method="none"))
    off = ReplayResult(None, None, ())
    answers = [torch.tensor([bench.encode(text)] * len(ids), device=ids.device) for text in texts]
    means = [-steered.score(batch, off, answer).mean(1).cpu() for answer in answers]
    return torch.stack(means).mean(0).tolist()


def report(
    folder: Path, items: Sequence[Sequence[Point]], *, settings: Mapping[str, Any], seed: int
) -> PerturbationResult:
    """Write the ladder of σ, the correlations and the figure; ``items`` hold each one's points."""
    rho = {
        outcome: {
            name: Rho(**vars(correlate(items, outcome, given, drift=drift)))
            for name, (drift, given) in CORRELATIONS.items()
        }
        for outcome in OUTCOMES
    }
    result = PerturbationResult(n=len(items), right=rho["right"], wrong=rho["wrong"])
    table = ladder(items)
    write_study(
        folder,
        "perturbation",
        settings={**settings, "n": len(items)},
        table=table,
        findings=result.findings(),
        seed=seed,
    )
    draw(folder / "perturbation.png", table, result)
    return result


def draw(path: Path, table: Sequence[Row], result: PerturbationResult) -> None:
    """Draw drift and log-perplexity over σ, and the within-item correlations."""
    figure, axes = canvas(13.0, 4.0, 3, width_ratios=(1, 1, 1.3))
    sigma = [row["sigma"] for row in table]
    for one, names, title in (
        (axes[0], (("low", BLUE), ("high", RED)), "drift at visual positions: KL (nats)"),
        (axes[1], (("right", GREEN), ("wrong", RED)), "log-perplexity per token (nats)"),
    ):
        for name, colour in names:
            values = [shown(row[name]) for row in table]
            label = f"{name}-entropy" if one is axes[0] else f"{name} answers"
            one.plot(sigma, values, marker="o", markersize=4, color=colour, label=label)
        one.set(title=title, xlabel="σ of the pixel noise (processor units)")
        one.legend(frameon=False, fontsize=8)
    labels: list[str] = []
    for outcome, colour in (("right", GREEN), ("wrong", RED)):
        for name, found in getattr(result, outcome).items():
            y = len(labels)
            if found.rho is not None:
                axes[2].plot(found.interval, (y, y), color=colour, linewidth=2)
                axes[2].plot(found.rho, y, "o", color=colour, markersize=5)
            labels.append(f"{outcome}: {name} (n = {found.n})")
    axes[2].set_yticks(range(len(labels)), labels, fontsize=8)
    axes[2].set_ylim(len(labels) - 0.5, -0.5)
    axes[2].axvline(0, color=GREY, linewidth=1, zorder=0)
    axes[2].set(
        title="Spearman of drift and log-perplexity\nwithin items, mean and 95% interval",
        xlim=(-1.05, 1.05),
    )
    save(figure, path)
