"""The picture to look at first: what was masked, how sure the base is there, where x acts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np
from PIL import Image

from replay_core.studies.figures import BLUE, GREEN, RED, canvas, save
from replay_core.studies.stats.resampling import Floats


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


def draw_overlay(path: Path, item: Overlay) -> None:
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
    figure.suptitle(item.title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    colour = _colour([score for _, score in item.answers.values()])
    note = "\n".join(fill(line, 170) for line in [*lines, *([item.note] if item.note else [])])
    figure.supxlabel(note, fontsize=9, x=0.01, ha="left", color=colour)
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
