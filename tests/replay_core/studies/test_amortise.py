"""A map that is learned and measured on a tiny pair, and its numbers computed a second way."""

import json
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest
import torch

from replay_core import ReplayConfig, Steered, UsageError
from replay_core.amortised import Amortised
from replay_core.config import Start
from replay_core.jsonl import finished_lines
from replay_core.model.padding import left_padded
from replay_core.outcome import Outcome
from replay_core.studies import amortise
from replay_core.studies.amortise import AmortiseResult, ArmFound
from replay_core.studies.report import read_result
from tests.replay_core.helpers import Loaded, stable
from tests.replay_core.studies.bench import Bench, answered

N, HELD_OUT = 4, 6


@pytest.fixture(scope="module")
def ran(load, tmp_path_factory) -> tuple[Bench, Path, AmortiseResult]:
    bench = Bench(load(), stable(steps=6), size=N + HELD_OUT, right=("",))
    folder = tmp_path_factory.mktemp("amortise")
    how = {"held_out": HELD_OUT, "epochs": 6, "width": 8, "learning_rate": 1e-2}
    return bench, folder, amortise.run(bench, folder, N, **how)


def rows_of(folder: Path) -> dict[str, dict[int, dict]]:
    (path,) = folder.glob("answers.*.jsonl")
    rows: dict[str, dict[int, dict]] = {}
    for row in finished_lines(path):
        rows.setdefault(row["arm"], {})[row["document"]] = row
    return rows


def test_the_file_holds_the_map_and_what_it_was_learned_from(ran) -> None:
    bench, folder, result = ran
    start = Start.model_validate(folder / amortise.FILE)
    _, provenance = Amortised.load(start)
    assert (provenance.documents, provenance.n) == ((0, N - 1), N)
    assert provenance.config == bench.config.model_dump(mode="json")
    assert provenance.policy_revision == bench.pair.policy_revision
    assert (provenance.epochs, provenance.width, provenance.seed) == (6, 8, 0)
    assert provenance.losses == result.epochs
    assert result.epochs[-1] < result.epochs[0]
    assert read_result(folder, "amortise", AmortiseResult) == result
    content = json.loads((folder / "amortise.json").read_text())
    assert content["settings"]["learned"]["task"] == "planted"
    assert content["settings"]["held_out"] == HELD_OUT
    assert (folder / "amortise.png").stat().st_size > 5000
    assert all(field.description for field in ArmFound.model_fields.values())


def test_it_is_measured_on_the_documents_behind(ran) -> None:
    _, folder, result = ran
    for name, rows in rows_of(folder).items():
        assert sorted(rows) == list(range(N, N + HELD_OUT)), name
    assert result.arms.keys() == rows_of(folder).keys()
    assert [arm.steps for arm in result.arms.values()] == [6, 0, 0, 0, 2, 5, 2, 5]


def test_shares_are_those_of_the_losses(ran) -> None:
    _, folder, result = ran
    rows = rows_of(folder)
    loop = {d: row["record"] for d, row in rows["loop"].items()}
    taken = {d: one["loss_before"] - one["loss_after"] for d, one in loop.items()}
    assert result.arms["loop"].removed == result.arms["loop"].median_removed == 1
    for name in ("map + 0 steps", "map + 5 steps", "5 steps from 0"):
        found, records = result.arms[name], {d: row["record"] for d, row in rows[name].items()}
        fell = {d: loop[d]["loss_before"] - one["loss_after"] for d, one in records.items()}
        assert found.removed == pytest.approx(sum(fell.values()) / sum(taken.values()))
        assert found.median_removed == pytest.approx(median(fell[d] / taken[d] for d in fell))
        assert found.loss_before == pytest.approx(fmean(o["loss_before"] for o in loop.values()))
        assert found.loss_after == pytest.approx(fmean(o["loss_after"] for o in records.values()))
        assert found.applied == HELD_OUT
    assert result.arms["map + 5 steps"].removed > result.arms["map + 0 steps"].removed
    assert result.arms["map alone, no base"].removed is None
    assert result.arms["none"].removed is None


def test_the_difference_of_the_features_is_the_towers_own(ran) -> None:
    bench, folder, result = ran
    rows, fell, taken = rows_of(folder)["loop"], 0.0, 0.0
    for document, row in rows.items():
        inputs = left_padded(dict(bench.inputs(document)))
        pixels = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
        with torch.no_grad():
            ours, theirs = (
                torch.cat(list(part.model.get_image_features(**pixels).pooler_output))
                for part in (bench.pair.policy, bench.pair.base)
            )
            loss = Steered(bench.pair, bench.config).problem(inputs).losses(theirs - ours)
        fell += row["record"]["loss_before"] - float(loss)
        taken += row["record"]["loss_before"] - row["record"]["loss_after"]
    assert result.difference_removed == pytest.approx(fell / taken, rel=1e-4)


def test_the_table_says_what_was_found(ran) -> None:
    _, _, result = ran
    told = result.told()
    assert f"removed {result.difference_removed:.3f}" in told
    line = next(line for line in told.splitlines() if line.startswith("map + 2 steps"))
    assert f"{result.arms['map + 2 steps'].removed:.3f}" in line


def test_arms_are_compared_with_the_loop_item_by_item() -> None:
    right = {"loop": [1, 1, 0, 0, 1], "none": [1, 0, 0, 0, 0], "map": [1, 1, 1, 0, 0]}
    losses = {"loop": [0.1] * 5, "map": [0.2, 0.1, 0.3, 0.05, 1.2]}
    answers = {
        arm: [
            answered(
                arm,
                document,
                "",
                correct=score,
                outcome=Outcome.APPLIED if arm in losses else Outcome.OFF,
                loss_before=1.0 if arm in losses else None,
                loss_after=losses[arm][document] if arm in losses else None,
            )
            for document, score in enumerate(scores)
        ]
        for arm, scores in right.items()
    }
    loop, none, learned = amortise._compared(answers, 0)
    assert (loop.difference, loop.fixed, loop.broken, loop.p) == (0, 0, 0, 1)
    assert (none.fixed, none.broken, none.difference) == (0, 2, pytest.approx(-0.4))
    assert (learned.fixed, learned.broken, learned.score) == (1, 1, pytest.approx(0.6))
    shares = [(1 - value) / 0.9 for value in losses["map"]]
    assert learned.removed == pytest.approx(np.mean(shares))
    assert learned.median_removed == pytest.approx(np.median(shares))
    assert (none.applied, learned.applied) == (0, 5)


def test_where_the_loop_lowers_nothing_there_is_no_share(one: Loaded) -> None:
    still = [answered("loop", 0, "", loss_before=0.0, loss_after=0.0)]
    (loop,) = amortise._compared({"loop": still}, 0)
    assert loop.removed is None
    assert loop.median_removed is None


def test_nothing_left_to_measure_on_is_refused(one: Loaded, tmp_path: Path) -> None:
    bench = Bench(one, ReplayConfig(layers=2), size=3)
    with pytest.raises(UsageError, match="no documents behind number 3"):
        amortise.run(bench, tmp_path, 3, held_out=2, epochs=1)


def test_a_prompt_without_a_picture_is_refused(one: Loaded, tmp_path: Path) -> None:
    bench = Bench(one, ReplayConfig(layers=2), size=3)
    bench._inputs = [one.singles("mixed")[1]]
    with pytest.raises(UsageError, match=r"task planted, documents \[0\]: .* no visual tokens"):
        amortise.run(bench, tmp_path, 1, held_out=1, epochs=1)
