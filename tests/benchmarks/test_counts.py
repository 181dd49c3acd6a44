"""Operations: the closed forms against the method's figures, and both loops against them."""

from functools import cache

import pytest
import torch

from replay_core import ReplayConfig, Steered
from tests.benchmarks.closed_form import (
    CAUSAL,
    EAGER,
    Costs,
    TopK,
    Work,
    least_work,
    release_order,
)
from tests.benchmarks.counting import counted
from tests.benchmarks.cpu import LAYERS, OURS, STEPS, THEIRS, TINY, Case, operations
from tests.benchmarks.release_order import ReleaseOrder
from tests.benchmarks.shapes import QWEN2_5_VL_7B, Prompt
from tests.benchmarks.timing import allocated_peak

VISUAL = 60  # 6 by 10
SHARES = (0.5, 1.0)

# TFLOP of one sample of Qwen2.5-VL-7B with 1,000 visual tokens: 170 tokens before them, 1,280 in
# all, 16 layers, 25 steps, two vision towers that differ. By ρ, from the method's notes.
RELEASE = {0.25: 1238, 0.5: 1573, 1.0: 2245}
LEAST_TOP_50 = 442
LEAST_FULL = {0.25: 660, 0.5: 878, 1.0: 1314}


@cache
def case(share: float) -> Case:
    """Eager attention, of which torch's counter sees every product."""
    found = Case(TINY, VISUAL, share, attention="eager")
    found.costs = Costs(TINY, EAGER)
    return found


def at_7b(masked: float, top_k: TopK = 50) -> tuple[Costs, Work]:
    return Costs(QWEN2_5_VL_7B, CAUSAL), Work(Prompt(170, 1000, 110), 16, 25, masked, top_k)


@pytest.mark.parametrize("masked", RELEASE)
def test_the_closed_forms_are_the_method_s_figures_at_7b(masked: float) -> None:
    release = sum(release_order(*at_7b(masked)).values())
    least = sum(least_work(*at_7b(masked), towers=2).values())
    full = sum(least_work(*at_7b(masked, "full"), towers=2).values())
    found = [round(each / 1e12) for each in (release, least, full)]
    assert found == [RELEASE[masked], LEAST_TOP_50, LEAST_FULL[masked]]


@pytest.mark.parametrize("share", SHARES)
def test_the_release_s_order_is_counted_as_its_closed_form_says(share: float) -> None:
    one = case(share)
    masked = one.ours(0)()
    found = operations(one.theirs(1), THEIRS).of(STEPS)
    assert found == pytest.approx(
        sum(release_order(one.costs, one.work(masked)).values()), rel=0.02
    )


@pytest.mark.parametrize("top_k", [50, "full"])
def test_what_few_steps_tell_is_what_many_take(top_k: TopK) -> None:
    one = case(0.5)
    assert operations(one.ours(3, top_k), OURS).of(7) == counted(one.ours(7, top_k))
    if top_k == 50:
        assert operations(one.theirs(1), THEIRS).of(4) == counted(one.theirs(4))


# Ours over the least work, as measured at this shape, rounded up. The targets are 1.01 and 1.05.
# What is more than the least is done once, beside the steps: without it the ratio is 1 (see
# `beside`). Top-50 misses its target by it, mostly by 8 forward passes of one layer: 7 for the loss
# at the final x, and one that is measured for the plan of memory.
@pytest.mark.parametrize(
    ("share", "top_k", "most"),
    [(0.5, 50, 1.0183), (1.0, 50, 1.0181), (0.5, "full", 1.0288), (1.0, "full", 1.0335)],
)
def test_ours_is_the_least_work_but_for_what_is_named(
    share: float, top_k: TopK, most: float
) -> None:
    one = case(share)
    least = sum(least_work(one.costs, one.work(top_k)).values())
    ours = operations(one.ours(2, top_k), OURS).of(STEPS)
    assert most - 0.001 < ours / least <= most
    assert (ours - beside(one, top_k)) / least == pytest.approx(1, abs=0.0015)


def beside(one: Case, top_k: TopK) -> float:
    """Return what ours does beside the least work: the loss at the final x, one layer and its lens
    forward (the lens also backward) for the plan of memory, and over the full vocabulary the base's
    matched rows once more."""
    costs, work = one.costs, one.work(top_k)
    kept = TINY.vocab_size if top_k == "full" else top_k
    lens = work.rows * 2 * TINY.hidden_size * kept
    layer = costs.layer(work.prompt.visual, work.prompt.before)
    again = lens if top_k == "full" else 0
    return (LAYERS + 1) * layer + lens + 2 * lens / LAYERS + again


@pytest.mark.parametrize("share", SHARES)
def test_both_loops_find_the_same_x(share: float) -> None:
    one = case(share)
    how = {"steps": 3, "step_size": 300.0}
    steered = Steered(
        one.pair,
        ReplayConfig(boundary="reference", layers=LAYERS, thresholds=one.thresholds, **how),
    )
    ours = steered.optimise(one.inputs).delta
    theirs, _ = ReleaseOrder(one.pair, one.thresholds, **how).run(one.inputs)
    assert ours is not None
    assert ours.norm() > 0
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4


def test_the_peak_is_of_what_is_held_at_once() -> None:
    def call() -> None:
        first = torch.zeros(25 * 2**18)
        del first
        second, third = torch.zeros(10 * 2**18), torch.zeros(5 * 2**18)
        del second, third

    assert allocated_peak(call) == pytest.approx(25, abs=0.1)


@pytest.mark.parametrize("share", SHARES)
def test_the_fused_attention_of_the_cpu_is_counted(share: float) -> None:
    """As many operations as eagerly, but for the scores that its backward pass forms again."""
    fused = Case(TINY, VISUAL, share)
    found = counted(fused.theirs(2))
    work = fused.work(steps=2)
    assert found == pytest.approx(sum(release_order(fused.costs, work).values()), rel=0.005)
    eager = sum(release_order(Costs(TINY, EAGER), work).values())
    assert found > eager
