"""What an overlay shows, against the oracle's masks, entropies and x, and which items it shows."""

import json

import numpy as np
import pytest
from PIL import Image

from replay_core import UsageError
from replay_core.studies import overlay
from replay_core.studies.bench import Prompts, Question
from replay_core.studies.figures import GREEN, RED
from tests.replay_core.helpers import judge, stable
from tests.replay_core.studies.bench import Bench, Plans, answered
from tests.replay_core.test_reading import divergences

CONFIG = stable(layers=(0, 2), steps=3)
GRID = (5, 3)  # of the visual tokens of one_image, rows x columns


class Pictured(Bench):
    """A bench whose documents ask about a picture."""

    picture: Image.Image | None = Image.new("RGB", (84, 140), "white")

    def question(self, document: int) -> Question:
        return Question(f"how many in {document}?", "three", self.picture)


def bench_of(load, config=CONFIG, size=3, **how):
    return Pictured(load(), config, size, Plans(size, 1, config), **how)


@pytest.mark.parametrize("positions", ["visual", "input"])
def test_every_map_is_the_oracles(load, tmp_path, drawn, planted_answers, positions):
    config = CONFIG.model_copy(update={"positions": positions})
    bench = bench_of(load, config)
    result = overlay.run(bench, tmp_path, chosen=[1])
    assert result.documents == (1,)
    assert result.told(tmp_path) == f"  {tmp_path / 'overlay_1.png'}"
    inputs = bench.inputs(1)
    expected = judge(bench.loaded, inputs, config)
    visual = (inputs["mm_token_type_ids"][0] > 0).numpy()
    among = visual if positions == "input" else visual[visual]
    _, kl, _ = divergences(bench.loaded.base, bench.loaded.policy, inputs)
    maps = {
        "masked": np.mean([expected.masks[layer].numpy()[among] for layer in (0, 2)], 0),
        "mean_entropy": np.mean([expected.entropies[layer].numpy()[among] for layer in (0, 2)], 0),
        "mean_drift": kl[[0, 2]][:, visual].mean(0),
        "delta_norm": expected.delta.norm(dim=-1).numpy(),
    }
    picture, *others = drawn["overlay_1"].axes[:4]
    shown = [1 - picture.get_images()[1].get_array()[..., 3] / 0.75]
    shown += [axes.get_images()[0].get_array() for axes in others]
    (row,) = json.loads((tmp_path / "overlay.json").read_text())["table"]
    for drawn_map, (name, values) in zip(shown, maps.items(), strict=True):
        np.testing.assert_allclose(drawn_map, values.reshape(GRID), rtol=1e-3, atol=1e-6)
        assert row[name] == pytest.approx(values.mean(), rel=1e-3), name
    assert 0 < row["masked"] < 1
    assert row["picture"] == "overlay_1.png"


def test_of_two_pictures_the_first_is_drawn_and_the_note_says_so(
    load, tmp_path, drawn, planted_answers
):
    bench = bench_of(load, size=1)
    bench._inputs = bench.loaded.singles("two_images")  # 2x4 and 6x2 tokens
    overlay.run(bench, tmp_path, None)
    expected = judge(bench.loaded, bench.inputs(0), CONFIG).delta.norm(dim=-1)[:8].reshape(2, 4)
    (image,) = drawn["overlay_0"].axes[3].get_images()
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-3)
    assert "only the first picture is drawn" in drawn["overlay_0"].get_supxlabel()


def answer(document, arm, text, correct, delta_norm):
    return answered(arm, document, text, correct=correct, delta_norm=delta_norm)


@pytest.fixture
def planted(monkeypatch):
    """Let replay change the score of document 2, the text of 1 and, most, only x of 3."""
    rows = [answer(d, "none", "four", float(d == 3), 0.0) for d in range(5)]
    rows += [
        answer(0, "replay", "four", 0.0, 2.5),
        answer(1, "replay", "five", 0.0, 0.5),
        answer(2, "replay", "three", 1.0, 0.1),
        answer(3, "replay", "four", 1.0, 7.5),
        answer(4, "replay", "four", 0.0, 1.5),
    ]
    monkeypatch.setattr(overlay, "run_arms", lambda *args, **how: rows)


def test_items_that_replay_changes_most_come_first(load, tmp_path, drawn, planted):
    result = overlay.run(bench_of(load, size=5), tmp_path, None, most=4)
    assert result.documents == (2, 1, 3, 0)
    content = json.loads((tmp_path / "overlay.json").read_text())
    assert overlay.OverlayResult.model_validate(content["findings"]) == result
    assert [(row["none"], row["replay"]) for row in content["table"]] == [
        (0, 1),
        (0, 0),
        (1, 1),
        (0, 0),
    ]


def test_answers_are_told_with_their_verdicts_and_coloured_by_who_is_better(
    load, tmp_path, drawn, planted
):
    overlay.run(bench_of(load, size=5), tmp_path, chosen=[2])
    figure = drawn["overlay_2"]
    told = figure.get_supxlabel()
    assert "how many in 2?    target: three" in told
    assert "none (wrong): four" in told
    assert "replay (right): three" in told
    assert figure._supxlabel.get_color() == GREEN
    assert overlay._colour([1.0, 0.0]) == RED
    assert figure.get_suptitle().startswith("planted, document 2: applied; masked KL ")


def test_what_cannot_be_drawn_is_refused(load, tmp_path, planted_answers):
    bench = bench_of(load)
    with pytest.raises(UsageError, match=r"documents \[7\] are not in planted \(0 to 2\)"):
        overlay.run(bench, tmp_path, chosen=[1, 7])
    bench.picture = None
    with pytest.raises(UsageError, match="document 1 has no picture to draw"):
        overlay.run(bench, tmp_path, chosen=[1])
    unshaped = Prompts({}, {}, (0,))
    assert overlay._grid(bench, unshaped, 9) == (3, 3)
    with pytest.raises(UsageError, match="does not say how its 12 visual tokens lie"):
        overlay._grid(bench, unshaped, 12)
