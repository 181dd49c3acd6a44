"""The ready run files name models, classes, options and sets that exist."""

import inspect
import json

import pytest
from transformers import Qwen2_5_VLConfig

from replay_adapters.settings.resources import resource
from replay_adapters.vlmevalkit import launcher

FILES = sorted((resource("configs") / "vlmevalkit").glob("*.json"))
SUITES = {
    *("MathVerse_MINI_Vision_Only", "MathVision", "MathVista_MINI", "DynaMath", "WeMath"),
    *("LogicVista", "MMMU_DEV_VAL", "MMMU_Pro_10c", "HRBench4K", "HRBench8K", "VStarBench"),
    *("VideoMMMU", "MLVU_MCQ", "Video_Holmes"),
}
RELEASE_INJECTS = {"hrbench", "vstar", "video_16frame"}


def entries():
    return {path.stem: json.loads(path.read_text()) for path in FILES}


def test_all_the_suites_are_there():
    named = {s["dataset"] for file in entries().values() for s in file["data"].values()}
    assert named == SUITES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_run_file_is_accepted_and_its_arms_differ_in_the_method_only(path, monkeypatch, tmp_path):
    """With the configs of the published checkpoints, which no test downloads."""
    config = Qwen2_5_VLConfig(architectures=["Qwen2_5_VLForConditionalGeneration"])
    checks = "replay_adapters.settings.checkpoints"
    monkeypatch.setattr(f"{checks}.check_processor", lambda settings, config: None)
    for module in ("replay_core.pair.loading", checks):
        monkeypatch.setattr(f"{module}.load_config", lambda checkpoint: config)
    planned = "replay_adapters.vlmevalkit.planned"
    for module in ("replay_adapters.settings.options", checks, planned):
        monkeypatch.setattr(f"{module}.adapted_base", lambda checkpoint: None)
    monkeypatch.setenv("OPENAI_API_KEY", "none of ours")
    monkeypatch.setenv("OPENAI_API_BASE", "")
    monkeypatch.setenv("HUGGINGFACE_TOKEN", "none of ours")
    revision = "commit of {}".format
    monkeypatch.setattr(f"{planned}.checkpoint_revision", lambda where, onto=None: revision(where))
    monkeypatch.setattr(f"{planned}.processor_revision", lambda settings: revision("processor"))
    run = launcher.prepare(["--config", str(path), "--work-dir", str(tmp_path)])
    arms = [dict(planned.arguments) for planned in run.ours.values()]
    methods = [arm.pop("replay_method") for arm in arms]
    assert methods == ["none", "replay", "inject"][: len(arms)]
    assert len(arms) == (3 if path.stem in RELEASE_INJECTS else 2)
    for planned, arm in list(zip(run.ours.values(), arms, strict=True))[2:]:
        assert planned.settings.config.boundary == "reference"  # said here, or by the pair's file
        arm.pop("replay_boundary", None)
    assert all(arm == arms[0] for arm in arms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_sets_are_the_harness_own(harness, path):
    import vlmeval.dataset

    for name, entry in json.loads(path.read_text())["data"].items():
        kind = getattr(vlmeval.dataset, entry["class"])
        assert entry["dataset"] in kind.supported_datasets()
        taken = inspect.signature(kind.__init__).parameters
        assert set(entry) - {"class"} <= set(taken)
        assert name == entry["dataset"] or entry["nframe"] == 16
