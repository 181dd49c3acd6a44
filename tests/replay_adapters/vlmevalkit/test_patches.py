"""The upstream symbols that we patch or rely on are still what the patches expect."""

import inspect
import types
from pathlib import Path

import pandas as pd
import pytest

from replay_adapters.session.session import Session, opened
from replay_core import UsageError

INFER = ["model", "model_name", "work_dir", "dataset", "out_file"]


def parameters(function) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


def test_patched_symbols_have_the_signatures_that_the_patches_were_written_for(harness):
    from vlmeval import inference, inference_video

    for module in (inference, inference_video):
        assert parameters(module.infer_data)[:5] == INFER, f"upstream changed {module.__name__}"
        source = inspect.getsource(inspect.unwrap(module.infer_data))
        for fact in ("load(out_file)", "dataset.build_prompt(", "model.generate(message=struct"):
            assert fact in source, f"upstream changed {module.__name__}.infer_data: no {fact!r}"
    jobs = (inference.infer_data_job, inference_video.infer_data_job_video)
    for job in jobs:
        assert parameters(job)[:4] == ["model", "work_dir", "model_name", "dataset"]
        assert "infer_data(" in inspect.getsource(inspect.unwrap(job))
    assert "result_file" in parameters(jobs[1])


def test_the_run_script_calls_what_is_patched(harness):
    from vlmeval import inference, inference_video, run

    # Also where it was imported before the patches were applied.
    assert run.infer_data_job is inference.infer_data_job
    assert run.infer_data_job_video is inference_video.infer_data_job_video
    source = inspect.getsource(run.run_local_mode)
    facts = (
        "backend='nccl'",
        "pred_root = osp.join(args.work_dir, model_name)",
        "dataset.evaluate(result_file, **judge_kwargs)",
        "error_message=str(e)",
    )
    for fact in facts:
        assert fact in source, f"upstream changed run.run_local_mode: no {fact!r}"


def test_applying_patches_again_changes_nothing(harness):
    from vlmeval import inference

    from replay_adapters.vlmevalkit import patches

    before = inference.infer_data
    patches.install()
    assert inference.infer_data is before
    assert not hasattr(before.__wrapped__, "__wrapped__")


def test_video_sets_can_be_named(harness, monkeypatch):
    from functools import partial

    from vlmeval.dataset import video_dataset_config

    from replay_adapters.vlmevalkit import patches

    class Clips:
        def __init__(self, dataset="clips", nframe=0):
            self.made = dataset, nframe

    table = {"Clips_8frame": partial(Clips, dataset="Clips", nframe=8)}
    monkeypatch.setattr(video_dataset_config, "supported_video_datasets", table)
    patches.video_sets_by_name()
    patches.video_sets_by_name()
    # As upstream calls it: with the whole command line.
    assert table["Clips_8frame"](judge=None, model=["m"], data=["x"]).made == ("Clips", 8)


def test_a_run_file_builds_the_set_that_it_names(harness):
    """MMMU-Pro's class takes any argument, and upstream passes on none of them."""
    from vlmeval import dataset, run

    class Open(dataset.MMMUProDataset):
        def load_data(self, dataset):
            self.loaded = dataset
            raise InterruptedError(dataset)

    original, dataset.MMMUProDataset = dataset.MMMUProDataset, Open
    Open.__init__ = original.__init__
    entry = {"class": "MMMUProDataset", "dataset": "MMMU_Pro_10c"}
    try:
        with pytest.raises(InterruptedError, match="MMMU_Pro_10c"):
            run.build_dataset_from_config({"mine": entry}, "mine")
    finally:
        dataset.MMMUProDataset = original


def test_a_process_takes_its_own_gpu(monkeypatch):
    import torch

    from replay_adapters.vlmevalkit.patches import own_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert own_device() == "cuda:0"  # upstream's choice was heard
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device() == "cuda:1"  # it came too late


def test_a_model_of_other_settings_does_not_touch_a_folder(harness, tiny_model, tmp_path):
    """With a run script of one's own, whose model names carry no fingerprint."""
    from vlmeval import inference
    from vlmeval.config import supported_VLM

    from replay_adapters.vlmevalkit import register
    from replay_adapters.vlmevalkit.journal import Journal

    entry = tiny_model(replay_method="none")
    entry.pop("class")
    register({"mine": entry})
    Journal(tmp_path, "pictures").check_settings("0123456789abcdef", {})
    dataset = types.SimpleNamespace(dataset_name="pictures", MODALITY="IMAGE")
    try:
        with pytest.raises(UsageError, match="made with settings 0123456789abcdef"):
            inference.infer_data_job(
                "mine", work_dir=str(tmp_path), model_name="mine", dataset=dataset
            )
    finally:
        del supported_VLM["mine"]


@pytest.mark.parametrize(("world", "raised"), [("1", ZeroDivisionError), ("2", SystemExit)])
def test_a_process_that_fails_takes_the_others_down(harness, tmp_path, monkeypatch, world, raised):
    """Upstream would leave them waiting in a barrier for an hour."""
    from vlmeval import inference

    from replay_adapters.vlmevalkit.journal import Journal

    class Dataset:
        dataset_name = "pictures"
        build_prompt = None

        def __len__(self):
            return 1 // 0

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", world)
    with opened(Session(journal=Journal(tmp_path, "pictures"))), pytest.raises(raised):
        inference.infer_data("m", "m", str(tmp_path), Dataset(), str(tmp_path / "out.pkl"))


def test_what_could_not_be_read_is_asked_again_by_a_run_that_goes_on(harness, tmp_path):
    """The file may be whole by then."""
    from vlmeval import inference

    from replay_adapters.vlmevalkit.journal import Journal
    from replay_adapters.vlmevalkit.partials import read_partial

    asked = []
    model = types.SimpleNamespace(
        set_dump_image=lambda dump: None,
        generate=lambda message, dataset: asked.append(message) or "new",
    )
    dataset = types.SimpleNamespace(
        dataset_name="pictures",
        data=pd.DataFrame({"index": [3, 1, 2]}),
        dump_image=None,
        build_prompt=lambda row: f"prompt {row['index']}",
    )
    Rows = type("Rows", (types.SimpleNamespace,), {"__len__": lambda self: 3})  # noqa: N806
    journal = Journal(tmp_path, "pictures")
    for index, text, outcome in ((1, "", "unreadable_input"), (3, "", "applied")):
        records = [{"outcome": outcome}]
        journal.add({"index": index, "predictions": [text], "replay": records})
    out = str(tmp_path / "out.pkl")
    with opened(Session(journal=journal)):
        inference.infer_data(model, "m", str(tmp_path), Rows(**vars(dataset)), out)
    assert asked == ["prompt 1", "prompt 2"]
    assert read_partial(Path(out)) == {3: " ", 1: "new", 2: "new"}
