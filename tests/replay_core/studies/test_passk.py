"""Pass@K of logged samples: what is written, read back, told and drawn."""

import pytest

from replay_core import ReplayConfig
from replay_core.studies.passk import PassKResult, arms_of, report
from replay_core.studies.report import read_result

LOGGED = {
    "policy": {0: [1.0, 0.0], 1: [0.0, 0.0], 2: [1.0, 1.0]},
    "longer": {0: [1.0, 0.0, 1.0], 1: [0.0, 1.0, 0.0], 2: [1.0, 1.0, 1.0]},
}


@pytest.fixture
def result(tmp_path):
    return report(tmp_path, LOGGED, {"runs": "planted"}, baseline="policy")


def test_a_difference_ends_where_the_shorter_arm_does(result):
    policy, longer = result.arms["policy"], result.arms["longer"]
    assert [*policy] == [1, 2]
    assert [*longer] == [1, 2, 3]
    assert policy[1].share == pytest.approx(0.5)
    assert policy[1].difference is None
    assert longer[1].difference == pytest.approx(1 / 6)  # 1/6, 1/3 and 0 by item
    assert longer[3].difference is None
    assert longer[3].share == 1


def test_the_result_is_read_back_from_the_json(result, tmp_path):
    assert read_result(tmp_path, "passk", PassKResult) == result
    assert result.findings()["longer"]["1"]["pass"] == result.arms["longer"][1].share
    assert "difference" not in result.findings()["policy"]["1"]


def test_each_arm_is_told_on_a_line_and_drawn(result, tmp_path):
    policy, longer = result.told().splitlines()
    assert policy.startswith("  policy            @1 0.500 [")
    assert "@2 0.667 [" in policy  # 1, 0 and 1 by item
    assert "@3" not in longer
    assert (tmp_path / "passk.png").stat().st_size > 5000


def test_the_arms_are_the_papers_with_injection_beside_them():
    config = ReplayConfig(threshold=0.2, layers=(0, 2))
    arms = {arm.name: arm.config for arm in arms_of(config)}
    methods = {name: arm.method for name, arm in arms.items()}
    assert methods == {
        "base": "base",
        "policy": "none",
        "policy + replay": "replay",
        "policy + inject": "inject",
    }
    assert all(arm.changed(method="replay") == config for arm in arms.values())
