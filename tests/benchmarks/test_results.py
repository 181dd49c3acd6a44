"""The README's table of targets says what the CSVs beside it say."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmarks import plots
from tests.benchmarks.closed_form import CAUSAL, Costs, Work, least_work, release_order
from tests.benchmarks.gpu import BEFORE, BEHIND, LAYERS, STEPS
from tests.benchmarks.shapes import QWEN2_5_VL_7B, Prompt

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


def results(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / f"{name}.csv")


def at(share: float, least: int = 0) -> pd.DataFrame:
    """The CPU's rows of one ρ, from so many visual tokens on."""
    rows = results("cpu")
    return rows[(rows["masked"].round(1) == share) & (rows["visual_tokens"] >= least)]


def on_gpu(column: str) -> pd.Series:
    """What was measured with all 25 steps, by N."""
    rows = results("gpu").set_index("visual_tokens")
    return pd.to_numeric(rows[rows["steps"] == 25][column])


def gpu_peaks() -> pd.Series:
    return on_gpu("peak_mb") / on_gpu("release_order_peak_mb")


def of_lbfgs(column: str) -> pd.Series:
    rows = results("steps")
    return rows[rows["optimizer"] == "lbfgs"][column]


Figures = Callable[[], pd.Series]
# What → which figures, with how many digits, and the most, or the least (negative), they may be;
# None where that is only told beside a target.
ROWS: dict[str, tuple[Figures, int, float | None]] = {
    "operations, over the least work: top-50": (lambda: results("cpu")["ours_over_least"], 3, 1.01),
    "operations, over the least work: full": (lambda: results("cpu")["full_over_least"], 3, 1.05),
    "operations, release's order over ours, N ≥ 256, CPU: ρ .5": (
        lambda: at(0.5, 256)["release_over_ours_flops"],
        2,
        None,
    ),
    "operations, release's order over ours, N ≥ 256, CPU: ρ 1": (
        lambda: at(1.0, 256)["release_over_ours_flops"],
        2,
        None,
    ),
    "seconds, release's order over ours, N ≥ 256, CPU: ρ .5": (
        lambda: at(0.5, 256)["release_over_ours_cpu_s"],
        2,
        -5,
    ),
    "seconds, release's order over ours, N ≥ 256, CPU: ρ 1": (
        lambda: at(1.0, 256)["release_over_ours_cpu_s"],
        2,
        -7,
    ),
    "seconds, release's order over ours, N ≥ 256, H100: ρ .5": (
        lambda: on_gpu("release_over_ours"),
        2,
        -5,
    ),
    "peak memory over the release's order, CPU: the loop": (
        lambda: results("cpu")["loop_peak_over_release"],
        2,
        0.3,
    ),
    "peak memory over the release's order, CPU: a whole sample": (
        lambda: results("cpu")["peak_over_release"],
        2,
        0.3,
    ),
    "peak memory over the release's order, H100: a whole sample": (gpu_peaks, 2, 0.3),
    "seconds to find x, 16 answers to an item over one": (
        lambda: pd.Series([results("repeats")["all_over_one"].median()]),
        2,
        1.1,
    ),
    "base's forwards of 6 settings of γ and α, targets stored": (
        lambda: results("store").set_index("store").loc[["full"], "base_forwards"],
        0,
        0,
    ),
    "steps to the loss of 25 plain ones, L-BFGS: median over samples": (
        lambda: of_lbfgs("median_steps"),
        0,
        8,
    ),
    "steps to the loss of 25 plain ones, L-BFGS: share of samples there within 25": (
        lambda: of_lbfgs("share_in_25"),
        3,
        -0.97,
    ),
    "share of the matmul rate, H100, N = 1,000": (
        lambda: on_gpu("share_of_matmul_rate").loc[[1000]],
        3,
        -0.6,
    ),
    "replay over decoding 512 tokens, H100, N = 1,000": (
        lambda: on_gpu("replay_over_decoding_512").loc[[1000]],
        3,
        0.15,
    ),
}


def line(what: str) -> str:
    """The table's line, as the CSVs have it."""
    find, digits, bound = ROWS[what]
    figures = find()
    low, high = f"{figures.min():.{digits}f}", f"{figures.max():.{digits}f}"
    measured = low if low == high else f"{low} to {high}"
    if bound is None:
        return f"| {what} | | {measured} | |"
    met = (figures >= -bound).all() if bound < 0 else (figures <= bound).all()
    target = f"≥ {-bound:g}" if bound < 0 else f"≤ {bound:g}" if bound else "0"
    return f"| {what} | {target} | {measured} | {'met' if met else 'missed'} |"


def table() -> list[str]:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    targets = text.split("## The targets")[1].split("Why the missed")[0]
    return [row for row in targets.splitlines() if row.startswith("| ")][1:]


@pytest.mark.parametrize("what", ROWS)
def test_the_table_of_targets_says_what_was_measured(what: str) -> None:
    assert line(what) in table()


def test_the_table_has_no_other_row() -> None:
    assert len(table()) == len(ROWS)


def test_figures_in_the_text_are_those_of_the_gpu() -> None:
    text = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    shares = on_gpu("share_of_matmul_rate")
    told = re.search(r"\((\S+) at 256, (\S+) at 1,000, (\S+) at 2,048\)", text)
    assert told is not None
    assert [float(one) for one in told.groups()] == list(shares.loc[[256, 1000, 2048]])
    longest = results("gpu").set_index("visual_tokens").loc[16384]
    told = re.search(r"ours runs (\d+) steps with checkpointing in ([\d,]+) MiB", text)
    assert told is not None
    found = [int(one.replace(",", "")) for one in told.groups()]
    assert found == [longest["steps"], longest["peak_mb"]]
    assert longest["checkpointing"]
    assert longest["release_order_s"] == "out of memory"


def test_figures_in_the_text_are_those_of_the_closed_forms() -> None:
    text = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    told = re.search(
        r"takes ([\d,]+) TFLOP, the least work ([\d,]+), (\S+) times fewer; at ρ 1 it is ([\d,]+), "
        r"(\S+) times",
        text,
    )
    assert told is not None
    costs, prompt = Costs(QWEN2_5_VL_7B, CAUSAL), Prompt(BEFORE, 1000, BEHIND)
    half, whole = (
        sum(release_order(costs, Work(prompt, LAYERS, STEPS, share)).values()) / 1e12
        for share in (0.5, 1.0)
    )
    least = sum(least_work(costs, Work(prompt, LAYERS, STEPS, 0.5)).values()) / 1e12
    figures = [f"{half:,.0f}", f"{least:,.0f}", f"{half / least:.1f}"]
    assert list(told.groups()) == [*figures, f"{whole:,.0f}", f"{whole / least:.1f}"]


def test_x_is_found_once_for_all_answers_to_an_item() -> None:
    rows = results("repeats")
    assert (rows["answers"] == 16).all()
    assert (rows["descents_for_all"] == rows["items"]).all()
    assert (rows["descents_for_one"] == rows["items"]).all()


def test_the_release_s_order_is_counted_as_its_closed_form_says() -> None:
    assert results("cpu")["release_over_closed_form"].between(0.98, 1.02).all()


@pytest.mark.parametrize("name", ["cpu", "gpu", "repeats", "steps", "steps_answers"])
def test_rows_name_a_commit(name: str) -> None:
    assert results(name)["commit"].astype(str).str.fullmatch("[0-9a-f]{7,10}").all()


def test_both_pictures_are_drawn(tmp_path: Path) -> None:
    for name in ("cpu", "gpu"):
        (tmp_path / f"{name}.csv").write_bytes((RESULTS / f"{name}.csv").read_bytes())
    plots.main(tmp_path)
    for name in ("cpu", "gpu"):
        drawn = (tmp_path / f"{name}.png").stat().st_size
        assert 10_000 < drawn < 100_000
