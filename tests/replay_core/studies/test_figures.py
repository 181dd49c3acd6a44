"""What the figures of runs and arms show, read back from what was drawn."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from replay_core.studies import overlay
from replay_core.studies.figures import (
    GREEN,
    RED,
    RunPanel,
    canvas,
    draw_compare,
    forest,
    literal,
    run_picture,
    save,
)
from replay_core.studies.stats.paired import PairedComparison


@pytest.fixture
def drawn(monkeypatch):
    """Collect the figures that are saved."""
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **how: seen.append(figure))
    return seen


def test_an_interval_beside_0_has_the_colour_of_its_side(drawn, tmp_path):
    rows = [("gain", 3.0, 1.0, 6.0), ("loss", -2.0, -5.0, -0.5), ("neither", 1.5, -1.0, 4.0)]
    forest(tmp_path / "a.png", rows, title="three arms", xlabel="points")
    (axes,) = drawn[0].axes
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    spans = [line for line in axes.get_lines() if line.get_marker() != "o"][:3]
    assert [list(span.get_xdata()) for span in spans] == [[1, 6], [-5, -0.5], [-1, 4]]
    assert [dot.get_xdata()[0] for dot in dots] == [3, -2, 1.5]
    colours = [to_hex(dot.get_color()) for dot in dots]
    assert colours[:2] == [GREEN, RED]
    assert colours[2] not in (GREEN, RED)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gain", "loss", "neither"]


def test_a_runs_picture_counts_what_was_fixed_and_broken(drawn, tmp_path):
    replay = PairedComparison(both_right=41, fixed=13, broken=5, both_wrong=28)
    noise = PairedComparison(both_right=44, fixed=4, broken=2, both_wrong=37)
    losses = [(2.0, 0.5), (3.0, 0.25)]
    panels = [
        RunPanel("first", losses, {"replay": replay, "random x": noise}),
        RunPanel("second", [], {"replay": noise, "random x": replay}),
    ]
    run_picture(tmp_path / "run.png", panels)
    left, right, other_left, other = drawn[0].axes
    assert left.collections[0].get_offsets().tolist() == [[2.0, 0.5], [3.0, 0.25]]
    assert len(other_left.collections[0].get_offsets()) == 0
    assert left.get_title("left") == "first\nloss of each of 2 steered samples"
    assert _bars(right) == {
        "fixed by replay": (13, GREEN),
        "broken by replay": (5, RED),
        "fixed by random x": (4, GREEN),
        "broken by random x": (2, RED),
    }
    assert [width for width, _ in _bars(other).values()] == [4, 2, 13, 5]
    assert right.get_xlim() == other.get_xlim()
    told = right.get_title("left").split("\n")
    assert told[0].startswith("replay: 52.9% → 62.1% right, n = 87, p = 0.096")  # 46 and 54 of 87
    assert told[1].startswith("random x: 52.9% → 55.2% right, n = 87, p = 0.69")


def _bars(axes):
    labels = [label.get_text() for label in axes.get_yticklabels()]
    bars = [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]
    return dict(zip(labels, bars, strict=True))


def test_a_comparisons_figure_shows_the_second_minus_the_first(drawn, tmp_path):
    row = {"task": "mathvista", "score_a": 0.61, "score_b": 0.645, "n": 321, "holm_p": 0.0213}
    row |= {"difference": 0.035, "low": 0.004, "high": 0.071}
    draw_compare(tmp_path / "compare.png", [row], ("before", "after"))
    (axes,) = drawn[0].axes
    (label,) = (tick.get_text() for tick in axes.get_yticklabels())
    assert label == "mathvista: 61.0 → 64.5\nn = 321, Holm p = 0.021"
    assert drawn[0].get_suptitle() == "after minus before"
    assert list(axes.get_lines()[0].get_xdata()) == pytest.approx([0.4, 7.1])


@pytest.mark.parametrize(
    "text",
    [
        r"The answer is $\boxed{4}$",
        r"\begin{cases} a $ b \\ c $ d \end{cases}",
        "$5 and $6",
        "${",
        "\ud800\udfff alone",
        "\x00\x1b[31m",
    ],
)
def test_a_models_text_is_drawn_as_it_stands(tmp_path, text):
    """matplotlib takes what lies between dollars for mathematics."""
    figure, _ = canvas(3, 2)
    figure.suptitle(literal(text))
    save(figure, tmp_path / "drawn.png")
    shown, mathematics = figure._suptitle._preprocess_math(figure._suptitle.get_text())
    assert not mathematics
    assert len(shown) == len(text)
    assert all(
        one == other or not other.isprintable() for one, other in zip(shown, text, strict=True)
    )
    assert (tmp_path / "drawn.png").stat().st_size > 0


def test_an_answer_in_latex_or_with_lone_surrogates_is_drawn(tmp_path):
    values = np.ones((2, 3))
    answers = {"none": (r"$\boxed{4}$ \begin{cases} a $ b", 0.0), "replay": ("\ud800", 1.0)}
    item = overlay.Overlay(
        title="$task$, document 2",
        question=r"What is $\frac{1}{0$?",
        target="$",
        answers=answers,
        picture=Image.new("RGB", (60, 40)),
        masked=values,
        entropy=values,
        drift=values,
        delta=values,
        note="",
    )
    overlay.draw(tmp_path / "drawn.png", item)
    assert (tmp_path / "drawn.png").stat().st_size > 0
