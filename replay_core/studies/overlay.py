"""What was masked, and where does x act? The picture to look at first, for each chosen item.

It shows the item's own picture with the mask, how sure the base is there, how far the policy has
drifted, and the length of x, over what the policy answers without and with replay.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from replay_core.config import ReplayConfig
from replay_core.errors import UsageError
from replay_core.reading import read
from replay_core.steered import Steered
from replay_core.studies.answers import Answered, by_arm, run_arms
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.bench import Bench, Prompts
from replay_core.studies.figures import BLUE, GREEN, RED, canvas, literal, save
from replay_core.studies.report import write_study
from replay_core.studies.result import Result
from replay_core.studies.stats.resampling import Floats

Grid = tuple[int, int]


class OverlayResult(Result):
    """Which documents were drawn."""

    documents: tuple[int, ...] = Field(description="the drawn documents, in order")

    def told(self, folder: Path) -> str:
        """Return one line per picture in ``folder``, for people."""
        return "\n".join(f"  {folder / _file(document)}" for document in self.documents)


def _file(document: int) -> str:
    return f"overlay_{document}.png"


@dataclass(frozen=True)
class Overlay:
    """One item; arrays are (rows, columns) of visual tokens.

    ``masked`` is the share of the matched layers at which a token is in the mask, ``entropy`` the
    base's mean entropy over these layers in nats, ``delta`` ‖x‖ and ``drift`` the mean KL over the
    layers before replay, in nats.
    """

    title: str
    question: str
    target: str
    answers: Mapping[str, tuple[str, float]]
    """Arm → (text, score)."""
    picture: Image.Image
    masked: Floats
    entropy: Floats
    drift: Floats
    delta: Floats
    note: str = ""


def run(
    bench: Bench,
    folder: Path,
    n: int | None = 100,
    *,
    chosen: Sequence[int] = (),
    most: int = 4,
    metric: str | None = None,
) -> OverlayResult:
    """Draw ``chosen`` documents, else up to ``most`` of the first ``n`` that say most.

    Those are the ones whose score replay changes, then those whose text it changes, then those on
    which x is longest.

    Raises:
        UsageError: the task has no such document, or one has no picture or one of unknown shape.
    """
    config = bench.config.changed(method="replay")
    documents = bench.documents(max(chosen) + 1 if chosen else n)
    missing = sorted(set(chosen) - set(documents))
    if missing:
        raise UsageError(f"documents {missing} are not in {bench.name} (0 to {max(documents)})")
    wanted = list(chosen) or documents
    arms = [baseline(config), Arm("replay", config)]
    answers = by_arm(run_arms(bench, folder, arms, wanted, metric=metric, label="overlay"))
    none, replayed = ({one.document: one for one in answers[arm.name]} for arm in arms)
    if not chosen:
        wanted = sorted(wanted, key=lambda d: _interest(none[d], replayed[d]))[:most]
    table = []
    for document in wanted:
        item = _overlay(bench, config, document, none[document], replayed[document])
        draw(folder / _file(document), item)
        table.append(
            {
                "document": document,
                "none": none[document].correct,
                "replay": replayed[document].correct,
                "masked": float(item.masked.mean()),
                "mean_entropy": float(item.entropy.mean()),
                "mean_drift": float(item.drift.mean()),
                "delta_norm": float(item.delta.mean()),
                "picture": _file(document),
            }
        )
    result = OverlayResult(documents=tuple(wanted))
    write_study(
        folder,
        "overlay",
        settings={**bench.identity(), "config": config.model_dump(mode="json")},
        table=table,
        findings=result.findings(),
        seed=config.seed,
    )
    return result


def _interest(none: Answered, replayed: Answered) -> tuple[Any, ...]:
    """Return a sort key: what changes most comes first."""
    return (
        none.correct == replayed.correct,
        none.text == replayed.text,
        -replayed.record.delta_norm,
        none.document,
    )


def _overlay(
    bench: Bench, config: ReplayConfig, document: int, none: Answered, replayed: Answered
) -> Overlay:
    """Return what is drawn of one document, from one more replay of it."""
    (prompts,) = bench.prompts([document])
    steered, seeds = Steered(bench.pair, config), [bench.seed(document)]
    replay, asked = steered.optimise(prompts.inputs, seeds=seeds), bench.question(document)
    if replay.delta is None or asked.picture is None:
        raise UsageError(f"document {document} has no picture to draw")
    shape = _grid(bench, prompts, len(replay.delta))
    targets = steered.targets(prompts.inputs, seeds=seeds)
    (reading,) = read(bench.pair, prompts.inputs, steered.layers)
    # Where the visual tokens stand among the mask's candidates.
    candidates = reading.visual if config.positions == "input" else reading.visual[reading.visual]
    entropies = torch.stack([e.float().cpu()[candidates] for e in targets.entropies.values()])
    masked = torch.zeros(len(targets.entropies), len(candidates))
    for row, layer in enumerate(targets.entropies):
        if layer in targets.layers:
            masked[row, targets.layers[layer].index.cpu()] = 1
    sample = replay.samples[0]
    losses = ""
    if sample.loss_after is not None:
        losses = f"; masked KL {sample.loss_before:.3g} → {sample.loss_after:.3g} nats"
    whole = len(replay.delta) == shape[0] * shape[1]
    return Overlay(
        title=f"{bench.name}, document {document}: {sample.outcome.value}{losses}",
        question=asked.text,
        target=asked.target,
        answers={one.arm: (one.text, one.correct) for one in (none, replayed)},
        picture=asked.picture,
        masked=_shaped(masked[:, candidates].mean(0), shape),
        entropy=_shaped(entropies.mean(0), shape),
        drift=_shaped(reading.kl[:, reading.visual].mean(0), shape),
        delta=_shaped(replay.delta.float().norm(dim=-1).cpu(), shape),
        note="" if whole else "only the first picture is drawn",
    )


def _shaped(values: Any, shape: Grid) -> Floats:
    return np.asarray(values, dtype=np.float64)[: shape[0] * shape[1]].reshape(shape)


def _grid(bench: Bench, prompts: Prompts, tokens: int) -> Grid:
    """Return rows and columns of the first picture's visual tokens.

    Raises:
        UsageError: the model says no grid and the tokens form no square.
    """
    grids = prompts.inputs.get("image_grid_thw")
    if grids is not None:
        vision = getattr(bench.pair.policy.model.config, "vision_config", None)
        merge = int(getattr(vision, "spatial_merge_size", 2))
        _, height, width = grids[0].tolist()
        return height // merge, width // merge
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UsageError(
            f"{bench.pair.name} does not say how its {tokens} visual tokens lie in the picture; "
            "overlays need image_grid_thw, or a square number of them"
        )
    return side, side


def draw(path: Path, item: Overlay) -> None:
    """Draw one item: picture with mask, entropy, drift, ‖x‖, and the answers below."""
    rows, columns = item.masked.shape
    height = 3.1 * min(1.6, max(0.6, rows / columns))
    figure, axes = canvas(14.2, height + 1.2, 4)
    _picture(axes[0], item)
    maps = (
        (axes[1], item.entropy, "base entropy (nats)", "viridis"),
        (axes[2], item.drift, "drift before replay: KL (nats)", "magma"),
        (axes[3], item.delta, "‖x‖ per visual token", "cividis"),
    )
    for one, values, title, colours in maps:
        _map(figure, one, values, title, colours)
        _outline(one, item.masked)
    lines = [f"{shorten(' '.join(item.question.split()), 200)}    target: {item.target}"]
    for name, (text, score) in item.answers.items():
        verdict = "right" if score == 1 else "wrong" if score == 0 else f"score {score:g}"
        lines.append(f"{name} ({verdict}): {shorten(' '.join(text.split()), 150)}")
    figure.suptitle(literal(item.title), fontsize=11, x=0.01, ha="left", fontweight="bold")
    colour = _colour([score for _, score in item.answers.values()])
    note = "\n".join(fill(line, 170) for line in [*lines, *([item.note] if item.note else [])])
    figure.supxlabel(literal(note), fontsize=9, x=0.01, ha="left", color=colour)
    save(figure, path)


def _picture(axes: Any, item: Overlay) -> None:
    """Draw the picture, dimmed where no layer selects a token, with the mask's outline."""
    rows, columns = item.masked.shape
    axes.imshow(item.picture, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
    veil = np.zeros((rows, columns, 4))
    veil[..., 3] = 0.75 * (1 - item.masked)
    veil[..., :3] = 1.0
    axes.imshow(veil, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
    _outline(axes, item.masked)
    share = float((item.masked >= 0.5).mean())
    axes.set_title(f"picture; veiled: not masked ({1 - share:.0%} in most layers)", fontsize=9)
    axes.set_aspect(item.picture.height / item.picture.width * columns / rows)
    _bare(axes)


def _map(figure: Any, axes: Any, values: Floats, title: str, colours: str) -> None:
    rows, columns = values.shape
    image = axes.imshow(values, cmap=colours, aspect="auto")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    axes.set_title(title, fontsize=9)
    axes.set_box_aspect(rows / columns)
    if rows * columns <= 64:
        middle = (values.max() + values.min()) / 2
        for (r, c), value in np.ndenumerate(values):
            ink = "black" if value > middle else "white"
            axes.text(c, r, f"{value:.2g}", ha="center", va="center", fontsize=7, color=ink)
    _bare(axes)


def _outline(axes: Any, masked: Floats) -> None:
    """Draw the border between masked (in at least half of the layers) and other tokens."""
    inside = masked >= 0.5
    padded = np.pad(inside, 1)
    style = {"color": "#ff2d55", "linewidth": 1.6, "solid_capstyle": "butt"}
    for r, c in zip(*np.nonzero(inside), strict=True):
        for dr, dc, xs, ys in (
            (-1, 0, (c - 0.5, c + 0.5), (r - 0.5, r - 0.5)),
            (1, 0, (c - 0.5, c + 0.5), (r + 0.5, r + 0.5)),
            (0, -1, (c - 0.5, c - 0.5), (r - 0.5, r + 0.5)),
            (0, 1, (c + 0.5, c + 0.5), (r - 0.5, r + 0.5)),
        ):
            if not padded[r + 1 + dr, c + 1 + dc]:
                axes.plot(xs, ys, **style)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour(scores: list[float]) -> str:
    """Green where the last answer is better than the first, red where worse, else blue."""
    if not scores or scores[-1] == scores[0]:
        return BLUE
    return GREEN if scores[-1] > scores[0] else RED
