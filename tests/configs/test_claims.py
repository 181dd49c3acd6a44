"""Every claim in both directions and at its boundary, through the code that writes the page."""

import pytest

from tests.configs.scripts import FOLDER, RESULTS, load
from tests.replay_core.studies import planted
from tests.support.tables import by, section, tables

page = load(RESULTS).page

POLICY = "RLVR made the policy better than its base"
DRIFT = "low-entropy activations drift more ({} positions)"
NOISE = "… more than under weight noise of the same norm (visual)"
TWIN = "… more than in an SFT twin (visual)"
RIGHT = "less low-entropy drift, lower perplexity of right answers"
WRONG = "less low-entropy drift, higher perplexity of wrong answers"
LOW = "injecting low-entropy base activations helps or keeps"
HIGH = "injecting high-entropy ones hurts"
PRESET = "replay improves accuracy (the pair's preset)"
RANDOM_X = "its control: random x of the same norms"
RANDOM_MASK = "its control: a random mask as large as the low-entropy one"
PASS = "replay improves Pass@8"


@pytest.fixture
def claims_of(tmp_path):
    """Write the page of one pair's planted findings; return claim → cell."""

    def write(found):
        folders = {"demo": planted.write(tmp_path / "demo", found)}
        text = page.write_page(tmp_path / "RESULTS.md", folders, []).read_text()
        (table,) = tables(section(text, "The claims, in short"))
        return {claim: row["`demo`"] for claim, row in by("claim", table).items()}

    return write


def test_every_claim_tells_the_numbers_of_its_own_study(claims_of):
    assert claims_of(planted.pair()) == {
        POLICY: "**gain**: +18.7 points [+15.3, +22.1], 255/68, p = 1.4e-26, n = 731",
        DRIFT.format("visual"): "**yes**: low/high 1.8 [1.5, 2.1]",
        DRIFT.format("text"): "**the reverse**: low/high 0.71 [0.58, 0.84]",
        NOISE: "**the reverse**: log ratio -0.29 [-0.41, -0.18]",
        TWIN: "**yes**: log ratio +0.37 [+0.21, +0.52]",
        RIGHT: "**yes**: partial ρ +0.26 [+0.17, +0.34], n = 93",
        WRONG: "**yes**: partial ρ -0.22 [-0.31, -0.13], n = 74",
        LOW: "**gain**: +4.3 points [+1.9, +6.7], 90/47, p = 0.00029, n = 731",
        HIGH: "**loss**: -6.2 points [-9.3, -3.1], 21/66, p = 1.2e-06, n = 731",
        PRESET: "**gain**: +2.5 points [+1.2, +5.7], 31/17, p = 0.042, n = 731",
        RANDOM_X: "no difference shown: +2.1 points [-0.4, +4.7], 29/17, p = 0.21, MDE 4.1, "
        "n = 731",
        RANDOM_MASK: "**loss**: -5.4 points [-8.8, -2.2], 9/48, p = 0.0022, n = 729",
        PASS: "**yes**: +3.9 points [+1.2, +6.7], n = 193",
    }


def test_the_page_has_the_same_claims_a_column_for_each_pair(tmp_path, claims_of):
    other = planted.pair()
    other["passk"]["findings"]["policy + replay"]["8"]["difference"] = 0.049
    folders = {
        "demo": planted.write(tmp_path / "demo", planted.pair()),
        "demo_narrow": planted.write(tmp_path / "demo_narrow", other),
    }
    text = page.write_page(tmp_path / "RESULTS.md", folders, []).read_text()
    rows = by("claim", tables(text)[0])
    assert {claim: row["`demo`"] for claim, row in rows.items()} == claims_of(planted.pair())
    assert rows[PASS]["`demo_narrow`"].startswith("**yes**: +4.9 points")
    assert rows[POLICY]["`demo_narrow`"] == rows[POLICY]["`demo`"]


def test_a_base_above_its_policy_is_a_loss_of_the_policy(claims_of):
    found = planted.pair()
    worse = planted.arm("base", 0.294, 0.2541, 0.3302, fixed=372, broken=78, p=5.7e-47)
    found["controls"]["findings"]["base"] = worse
    told = "**loss**: -29.4 points [-33.0, -25.4], 78/372, p = 5.7e-47, n = 731"
    assert claims_of(found)[POLICY] == told


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.02, 1.31, "**yes**"),
        (1.0, 1.31, "not shown"),
        (0.72, 1.31, "not shown"),
        (0.72, 1.0, "not shown"),
        (0.72, 0.98, "**the reverse**"),
    ],
)
def test_low_entropy_positions_drift_more_where_the_ratio_is_above_1(claims_of, low, high, word):
    for kind in ("visual", "text"):
        found = planted.pair()
        entry = found["drift"]["findings"][kind]["policy"]
        entry |= {"low_over_high": 1.01, "low_over_high_interval": [low, high]}
        told = claims_of(found)[DRIFT.format(kind)]
        assert told == f"{word}: low/high 1 [{low:.2g}, {high:.2g}]"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.003, 0.21, "**yes**"),
        (0.0, 0.21, "not shown"),
        (-0.14, 0.21, "not shown"),
        (-0.14, 0.0, "not shown"),
        (-0.14, -0.003, "**the reverse**"),
    ],
)
def test_an_interval_above_0_is_yes_and_below_it_the_reverse(claims_of, low, high, word):
    """But for wrong answers, whose claim is of a negative correlation."""
    turned = {"**yes**": "**the reverse**", "**the reverse**": "**yes**"}.get(word, word)
    for claim, expected, path, entry in (
        (
            TWIN,
            word,
            ("drift", "findings", "visual", "sft twin"),
            {"log_ratio_of_policy_to_this": 0.011, "log_ratio_interval": [low, high]},
        ),
        (
            NOISE,
            word,
            ("drift", "findings", "visual", "weight noise"),
            {"log_ratio_of_policy_to_this": 0.011, "log_ratio_interval": [low, high]},
        ),
        (
            RIGHT,
            word,
            ("perturbation", "findings", "right", "low given high"),
            {"rho": 0.011, "interval": [low, high]},
        ),
        (
            WRONG,
            turned,
            ("perturbation", "findings", "wrong", "low given high"),
            {"rho": 0.011, "interval": [low, high]},
        ),
        (
            PASS,
            word,
            ("passk", "findings", "policy + replay", "8"),
            {"difference": 0.011, "difference_low": low, "difference_high": high},
        ),
    ):
        found = planted.pair()
        at = found
        for name in path:
            at = at[name]
        at |= entry
        assert claims_of(found)[claim].startswith(f"{expected}: "), claim


@pytest.mark.parametrize(
    ("difference", "p", "word"),
    [
        (0.031, 0.0499, "**gain**"),
        (-0.031, 0.0499, "**loss**"),
        (0.031, 0.05, "no difference shown"),
        (-0.031, 0.2, "no difference shown"),
    ],
)
@pytest.mark.parametrize(
    ("claim", "study", "arm"),
    [
        (LOW, "intervention", "aligned visual low"),
        (HIGH, "intervention", "aligned visual high"),
        (PRESET, "chosen", "the pair's preset"),
        (RANDOM_X, "controls", "random x"),
        (RANDOM_MASK, "controls", "random mask"),
    ],
)
def test_a_gain_or_loss_is_one_whose_p_is_below_5_percent(
    claims_of, claim, study, arm, difference, p, word
):
    found = planted.pair()
    row = found[study]["findings"][arm]
    row |= {"difference": difference, "p": p, "minimum_detectable": 0.0567}
    told = claims_of(found)[claim]
    assert told.startswith(f"{word}: {100 * difference:+.1f} points")
    assert ("MDE 5.7" in told) == (word == "no difference shown")


def test_what_was_not_measured_is_not_claimed(claims_of):
    found = planted.pair()
    visual = found["drift"]["findings"]["visual"]
    del visual["sft twin"]
    visual["weight noise"] |= {"log_ratio_of_policy_to_this": None}
    visual["policy"] |= {"low_over_high": None, "low_over_high_interval": [None, None]}
    found["perturbation"]["findings"]["wrong"]["low given high"] |= {"rho": None}
    del found["passk"]["findings"]["policy + replay"]["8"]
    told = claims_of(found)
    assert told[TWIN] == "no such twin was given"
    assert told[NOISE] == "undefined: one of them does not drift"
    assert told[DRIFT.format("visual")] == "undefined: no drift at high entropy"
    assert told[WRONG] == "undefined"
    assert told[PASS] == "too few samples"


def test_the_committed_page_has_every_claim_under_its_explanation():
    text = section((FOLDER / "RESULTS.md").read_text("utf-8"), "The claims, in short")
    assert page.CLAIMS.split("\n\n")[1] in text
    (table,) = tables(text)
    assert list(table[0]) == ["claim", "`demo`", "`demo_narrow`", "`demo_drifted`"]
    assert [row["claim"] for row in table] == [
        *(POLICY, DRIFT.format("visual"), DRIFT.format("text"), NOISE, TWIN, RIGHT, WRONG),
        *(LOW, HIGH, PRESET, RANDOM_X, RANDOM_MASK, PASS),
    ]
    assert all(cell for row in table for cell in row.values())
