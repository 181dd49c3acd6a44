"""Arms' tables, the grid and Pass@K from planted answers, against scipy, statsmodels and counts.

The whole way: answers, scores, comparisons, JSON and CSV, the page and the figures; without a
harness, as the answers are given.
"""

import csv
import json
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from replay_core import ReplayConfig, UsageError
from replay_core.studies import controls, grid, intervention, passk
from replay_core.studies.report import read_result
from replay_core.studies.stats.passk import curve
from replay_core.studies.trial import TrialResult
from tests.configs.scripts import RESULTS, load
from tests.replay_core.studies import planted
from tests.replay_core.studies.bench import Bench, Plans
from tests.support.tables import by, section, tables

SCRIPTS = load(RESULTS)
N, SAMPLES, GRID, HELD_OUT, PASS = 120, 5, 90, 6, 70
CONFIG = ReplayConfig(layers=(0, 2), threshold=0.2, step_size=500, steps=1)
PLANS = Plans(N + HELD_OUT, SAMPLES, CONFIG)


@pytest.fixture(scope="module")
def folder(load, tmp_path_factory, drawn, planted_answers):
    """Return the folder of every study that compares answers, run on the planted ones."""
    path = tmp_path_factory.mktemp("answered")
    bench = Bench(load(), CONFIG, size=N + HELD_OUT, plans=PLANS)
    cells = grid.run(bench, path, GRID, gammas=(0.2, 0.7), alphas=(500, 40), held_out=HELD_OUT)
    SCRIPTS.chosen.run_chosen(bench, path, N, cells)
    controls.run(bench, path, N)
    intervention.run(bench, path, N)
    passk.run(bench, path, PASS, samples=SAMPLES, temperature=0.9)
    return path


def found_in(folder, study):
    return json.loads((folder / f"{study}.json").read_text())


def csv_of(folder, study):
    with (folder / f"{study}.csv").open() as file:
        return list(csv.DictReader(file))


def plan_of(content, arm):
    return PLANS.of(content["settings"]["arms"][arm])


def differences(content, arm):
    n = content["settings"]["n"]
    return plan_of(content, arm).correct[:n].astype(float) - PLANS.none[:n]


STUDIES = [("chosen", N), ("controls", N), ("intervention", N), ("grid", GRID)]


@pytest.mark.parametrize(("study", "n"), STUDIES)
def test_scores_counts_p_and_holms_p_of_every_arm(folder, study, n):
    content = found_in(folder, study)
    rows = content["table"]
    assert len(rows) >= 4
    p = []
    for row in rows:
        gap = differences(content, row["arm"])
        fixed, broken = int((gap > 0).sum()), int((gap < 0).sum())
        assert (row["n"], row["fixed"], row["broken"]) == (n, fixed, broken)
        assert row["baseline"] == pytest.approx(PLANS.none[:n].mean())
        assert row["score"] == pytest.approx(plan_of(content, row["arm"]).correct[:n].mean())
        assert row["difference"] == pytest.approx((fixed - broken) / n)
        p.append(binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0)
        assert row["p"] == pytest.approx(p[-1])
    adjusted = multipletests(p, method="holm")[1]
    assert [row["holm_p"] for row in rows] == pytest.approx(adjusted.tolist())
    assert any(a > b for a, b in zip(adjusted, p, strict=True))


@pytest.mark.parametrize(("study", "n"), STUDIES)
def test_intervals_and_mde_of_every_arm(folder, study, n):
    """The bootstrap of -1, 0 and 1 is a multinomial one; the level is 95%."""
    effect = NormalIndPower(ddof=0).solve_power(
        nobs1=n, alpha=0.05, power=0.8, ratio=0, alternative="two-sided"
    )
    content = found_in(folder, study)
    for row in content["table"]:
        gap = differences(content, row["arm"])
        if not gap.any():
            continue
        shares = [(gap > 0).mean(), (gap < 0).mean(), (gap == 0).mean()]
        counts = np.random.default_rng(1).multinomial(n, shares, 100_000)
        low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, [0.025, 0.975])
        step = 1.01 / n  # the bootstrap's values lie on a lattice
        assert row["low"] == pytest.approx(low, abs=step)
        assert row["high"] == pytest.approx(high, abs=step)
        expected = effect * gap.std(ddof=1)
        assert row["minimum_detectable"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("study", "n"), STUDIES)
def test_costs_masks_and_outcomes_of_every_arm(folder, study, n):
    content = found_in(folder, study)
    for row in content["table"]:
        plan = plan_of(content, row["arm"])
        assert row["seconds"] == pytest.approx(plan.seconds[:n].mean())
        assert row["tokens"] == pytest.approx(plan.tokens[:n].mean())
        assert row["truncated"] == pytest.approx(plan.truncated[:n].mean())
        if plan.steers:
            assert row["masked"] == pytest.approx(plan.masked[:n].mean())
            assert row["loss_before"] == pytest.approx(plan.before[:n].mean())
            assert row["loss_after"] == pytest.approx(plan.after[:n].mean())
            assert row["outcomes"] == f"applied:{n}"
        else:
            assert row["masked"] is row["loss_before"] is row["loss_after"] is None
            assert row["outcomes"] == f"off:{n}"


@pytest.mark.parametrize("study", [study for study, _ in STUDIES])
def test_the_csv_has_the_numbers_of_the_json(folder, study):
    content = found_in(folder, study)
    for row, line in zip(content["table"], csv_of(folder, study), strict=True):
        assert line.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, float):
                assert float(line[name]) == pytest.approx(value, rel=1e-5)
            else:
                assert line[name] == ("" if value is None else str(value))
    findings = content["findings"]
    findings = findings["cells"] if study == "grid" else findings
    assert findings == {row["arm"]: row for row in content["table"]}


def test_results_are_read_back_from_the_json(folder):
    for study in ("chosen", "controls", "intervention"):
        result = read_result(folder, study, TrialResult)
        assert result.findings() == found_in(folder, study)["findings"]
    cells = read_result(folder, "grid", grid.GridResult)
    assert json.loads(json.dumps(cells.findings())) == found_in(folder, "grid")["findings"]
    for cell in cells.cells.values():
        settings = found_in(folder, "grid")["settings"]["arms"][cell.arm]["config"]
        assert cell.alpha == settings["step_size"]
        assert cell.gamma == (0.7 if "0.7" in cell.arm else 0.2)
        assert cell.thresholds == ("fixed" if "fixed" in cell.arm else "dynamic")
    curves = read_result(folder, "passk", passk.PassKResult)
    assert curves.findings() == found_in(folder, "passk")["findings"]


def test_votes_are_as_many_as_replays_seconds_buy(folder):
    arms = [row["arm"] for row in found_in(folder, "controls")["table"]]
    assert "self-consistency, 7 votes" in arms  # 0.35 s a replayed answer, 0.05 s a plain one


def test_the_grids_curves_are_those_of_their_own_cells(folder):
    content = found_in(folder, "grid")
    assert {row["arm"] for row in content["table"]} == {
        *(f"γ={gamma} α={alpha}" for gamma in (0.2, 0.7) for alpha in (500, 40)),
        "fixed as γ=0.2 α=500",
        "fixed as γ=0.7 α=500",
    }
    for arm, losses in content["findings"]["curves"].items():
        steps = [plan_of(content, arm).before[:GRID].mean(), 1.0]
        assert losses == pytest.approx([] if arm == "none" else steps)
    assert content["findings"]["own_step_size"] == 500
    assert content["findings"]["own_threshold"] == 0.2
    assert content["findings"]["fixed_thresholds_from"] == (
        f"the mean of γ·max entropy over {HELD_OUT} held-out documents"
    )


def test_the_grid_colours_and_labels_each_cell_with_its_own_numbers(folder, drawn):
    heat, curves, *_ = drawn["grid"].axes
    alphas = [label.get_text().split("\n")[0] for label in heat.get_xticklabels()]
    gammas = [label.get_text() for label in heat.get_yticklabels()]
    assert (alphas, gammas) == (["40", "500"], ["0.2", "0.7"])
    own = [label.get_text().endswith("the pair's)") for label in heat.get_xticklabels()]
    assert own == [False, True]
    content = found_in(folder, "grid")
    cells = content["findings"]["cells"]
    (image,) = heat.get_images()
    told = {text.get_position(): text.get_text() for text in heat.texts}
    for row, gamma in enumerate(gammas):
        for column, alpha in enumerate(alphas):
            cell = cells[f"γ={gamma} α={alpha}"]
            assert image.get_array()[row, column] == pytest.approx(100 * cell["difference"])
            points, changed, p = told[column, row].split("\n")
            assert float(points) == pytest.approx(100 * cell["difference"], abs=0.051)
            assert changed == f"{cell['fixed']}/{cell['broken']}"
            assert float(p.removeprefix("p=")) == pytest.approx(cell["p"], rel=0.06)
    lines = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    for alpha in alphas:  # of the middle γ
        expected = [plan_of(content, f"γ=0.7 α={alpha}").before[:GRID].mean(), 1.0]
        assert list(lines[f"α = {alpha}"]) == pytest.approx(expected)


@pytest.mark.parametrize("study", ["chosen", "controls", "intervention"])
def test_an_arms_figure_shows_each_arms_own_interval(folder, drawn, study):
    (axes,) = drawn[study].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    rows = found_in(folder, study)["table"]
    spans = [line for line in axes.get_lines() if len(line.get_xdata()) == 2][:-1]
    dots = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    for at, (row, label) in enumerate(zip(rows, labels, strict=True)):
        assert label.startswith(f"{row['arm']}  {row['fixed']}/{row['broken']}  p={row['p']:.2g}")
        expected = [100 * row["low"], 100 * row["high"]]
        assert list(spans[at].get_xdata()) == pytest.approx(expected)
        assert list(spans[at].get_ydata()) == [at, at]
        assert dots[at].get_xdata()[0] == pytest.approx(100 * row["difference"])
    title = drawn[study].get_suptitle()
    assert f"n = {N}" in title
    assert f"({PLANS.none[:N].mean():.1%}," in title


def test_the_best_cell_of_the_grid_is_answered_on_the_test_split(folder):
    cells = ["γ=0.2 α=500", "γ=0.2 α=40", "γ=0.7 α=500", "γ=0.7 α=40"]
    content = found_in(folder, "grid")
    gains = {arm: differences(content, arm).sum() for arm in cells}
    assert len({*gains.values()}) == len(cells)  # a tie would be another question
    best = max(cells, key=gains.__getitem__)
    arms = found_in(folder, "chosen")["settings"]["arms"]
    config = arms[f"best on the development split: {best}"]["config"]
    assert f"γ={config['threshold']:g} α={config['step_size']:g}" == best
    assert arms["the pair's preset"]["config"]["threshold"] == 0.2


# Pass@K ------------------------------------------------------------------------------------------

ARMS = ("base", "policy", "policy + replay", "policy + inject")


def passed(content, arm, k):
    """Return each item's share of k-subsets with a right answer, by counting subsets."""
    counts = plan_of(content, arm).counts[:PASS]
    return np.array([1 - comb(SAMPLES - int(c), k) / comb(SAMPLES, k) for c in counts])


def bootstrap_of_mean(values):
    rng = np.random.default_rng(5)
    means = values[rng.integers(0, len(values), (20_000, len(values)))].mean(1)
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("k", range(1, SAMPLES + 1))
def test_pass_at_every_k_of_every_arm(folder, k):
    content = found_in(folder, "passk")
    assert set(content["findings"]) == set(ARMS)
    for arm in ARMS:
        row = content["findings"][arm][str(k)]
        assert (row["arm"], row["k"], row["n"], row["samples"]) == (arm, k, PASS, SAMPLES)
        assert row in content["table"]
        mine, its = passed(content, arm, k), passed(content, "policy", k)
        assert row["pass"] == pytest.approx(mine.mean())
        low, high = bootstrap_of_mean(mine)
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1.01 / PASS)
        if arm == "policy":
            assert "difference" not in row
            continue
        assert row["difference"] == pytest.approx((mine - its).mean())
        ends = bootstrap_of_mean(mine - its)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            ends, abs=1.01 / PASS
        )


def test_pass_at_k_is_drawn_arm_by_arm(folder, drawn):
    content = found_in(folder, "passk")
    (axes,) = drawn["passk"].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == set(ARMS)
    for arm, line in lines.items():
        assert list(line.get_xdata()) == list(range(1, SAMPLES + 1))
        expected = [passed(content, arm, k).mean() for k in range(1, SAMPLES + 1)]
        assert list(line.get_ydata()) == pytest.approx(expected)
    assert f"n = {PASS} items, {SAMPLES} samples" in axes.get_title()


def test_scores_between_0_and_1_have_no_pass_at_k():
    with pytest.raises(UsageError, match=r"must be 0 or 1; found 0\.25"):
        curve({1: [1.0, 0.25], 2: [0.0, 0.0]})


# The page ----------------------------------------------------------------------------------------


def test_the_page_shows_what_the_answers_say(folder, tmp_path):
    """From planted answers to the page: the policy's claim, an arm, a grid's cell and Pass@K."""
    found = planted.pair()
    for study in ("chosen", "controls", "intervention", "grid", "passk"):
        found[study] = found_in(folder, study)
    path = planted.write(tmp_path / "demo", found)
    text = SCRIPTS.page.write_page(tmp_path / "RESULTS.md", {"demo": path}, []).read_text()

    claims = by("claim", tables(text)[0])
    gained = -differences(found["controls"], "base")
    word = "**gain**" if gained.sum() > 0 else "**loss**"
    p = binomtest(int((gained > 0).sum()), int((gained != 0).sum())).pvalue
    cell = claims["RLVR made the policy better than its base"]["`demo`"]
    assert cell.startswith(word if p < 0.05 else "no difference shown")
    assert f": {100 * gained.mean():+.1f} points [" in cell
    assert f", {(gained > 0).sum()}/{(gained < 0).sum()}, p = {p:.2g}" in cell
    assert cell.endswith(f"n = {N}")

    (controls,) = tables(section(text, "Controls"))
    row = by("arm", controls)["random x"]
    plan = plan_of(found["controls"], "random x")
    gap = differences(found["controls"], "random x")
    assert row["none"] == f"{PLANS.none[:N].mean():.3f}"
    assert row["score"] == f"{plan.correct[:N].mean():.3f}"
    assert row["difference (points)"].startswith(f"{100 * gap.mean():+.1f} [")
    assert row["fixed/broken"] == f"{(gap > 0).sum()}/{(gap < 0).sum()}"
    assert row["masked"] == f"{plan.masked[:N].mean():.2f}"
    assert row["seconds"] == f"{plan.seconds[:N].mean():.3f}"

    (grid,) = tables(section(text, "Grid (Table 5's form, on the development split)"))
    rows, cells = by("thresholds", grid), found["grid"]
    for name, arm in (("dynamic", "γ=0.2 α=500"), ("fixed per layer", "fixed as γ=0.2 α=500")):
        row = rows[f"γ=0.2 α=500, {name}"]
        gap, share = differences(cells, arm).mean(), plan_of(cells, arm).masked[:GRID].mean()
        assert row["difference (points)"] == f"{100 * gap:+.1f}"
        assert row["masked"] == f"{share:.2f}"

    (curves,) = tables(section(text, "Pass@K (Figure 6's form)"))
    row, ours = by("arm", curves)["policy + replay"], found["passk"]
    for k in (1, 2, 4):
        assert row[f"Pass@{k}"] == f"{passed(ours, 'policy + replay', k).mean():.3f}"
    gap = (passed(ours, "policy + replay", 4) - passed(ours, "policy", 4)).mean()
    assert row["difference from policy @4"].startswith(f"{100 * gap:+.1f} [")
