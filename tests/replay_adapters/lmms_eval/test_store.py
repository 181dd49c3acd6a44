"""A store through the real harness: what a run leaves there, the next one does not compute."""

from pathlib import Path

import pytest

from replay_adapters.lmms_eval.bench import LmmsEvalBench
from replay_adapters.settings.options import resolve
from replay_core import UsageError
from replay_core.studies.answers import run_arms
from replay_core.studies.arms import Arm
from tests.replay_adapters.conftest import REPLAY

COMMON = f"min_pixels=3136,max_pixels=50176,dtype=float32,{REPLAY}"


@pytest.fixture(scope="module")
def runs(lmms_eval, tiny_pairs, tmp_path_factory):
    """Three runs that share a store, the last two with another γ and with another seed."""
    pair, store = tiny_pairs["qwen2_5_vl"], tmp_path_factory.mktemp("store")
    given = f"pretrained={pair.policy},replay_base={pair.base},{COMMON},replay_store={store}"
    more = (given, given.replace("threshold=0.7", "threshold=0.5"), f"{given},replay_seed=3")
    assert len(set(more)) == 3
    found = [
        lmms_eval("qwen2_vl_replay", one, "replay_test_pictures", "--batch_size", "3")
        for one in more
    ]
    return found, store


def test_a_later_run_takes_what_is_there_and_says_so(runs):
    (first, other, again), store = runs
    for run, stored in ((first, None), (other, "targets"), (again, "x")):
        assert run.code == 0, run.output
        assert {record["stored"] for record in run.records} == {stored}
    assert again.answers == first.answers
    for one, same in zip(first.records, again.records, strict=True):
        assert one["loss_after"] == same["loss_after"]
        assert one["seconds"]["loop"] > same["seconds"]["loop"] == 0
    gammas = [[r["masked_fraction"] for r in run.records] for run in (first, other)]
    assert gammas[0] != gammas[1]
    assert len(list(store.iterdir())) == 2 + 2 + 2  # two batches: what the base read, x, x


def test_a_store_is_no_part_of_what_answers_are_known_by(tmp_path):
    plain, stored = (resolve({"pair": "demo", **more}) for more in ({}, {"replay_store": "x"}))
    assert stored.store == Path("x")
    assert stored.fingerprint() == plain.fingerprint()


def test_a_store_that_is_no_folder_is_refused_before_models_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("replay_adapters.session.standin.load_pair", None)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"the store .*/file is not a folder"):
        LmmsEvalBench(f"replay_store={tmp_path / 'file'}", "replay_demo_dev", device="cpu")


def test_the_arms_of_a_study_share_the_store(tmp_path):
    """All of a grid's settings after the first one, and all of another folder's, ask no base."""

    def losses(store: str, answers: str) -> tuple[list[object], LmmsEvalBench]:
        given = f"pair=demo_narrow,replay_steps=2,replay_select=low{store}"
        bench = LmmsEvalBench(given, "replay_demo_dev", device="cpu", batch_size=4)
        arms = [Arm(str(g), bench.config.changed(threshold=g)) for g in (0.2, 0.4)]
        found = run_arms(bench, tmp_path / answers, arms, bench.documents(4))
        return [(one.losses, one.record.stored) for one in found], bench

    plain, _ = losses("", "a")
    store = f",replay_store={tmp_path / 'store'}"
    first, loading = losses(store, "b")
    again, idle = losses(store, "c")
    assert loading.pair.base.loaded
    assert not idle.pair.base.loaded
    curves = [[one for one, _ in found] for found in (plain, first, again)]
    assert curves[0] == curves[1] == curves[2]
    assert [stored for _, stored in first] == [None] * 4 + ["targets"] * 4
    assert [stored for _, stored in again] == ["x"] * 8
