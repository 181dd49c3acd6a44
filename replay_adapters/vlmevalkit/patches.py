"""What VLMEvalKit 0.0.20 has no door for: one small named function each.

Every patch passes through where another model than ours is evaluated. A test names the patched
symbol when upstream changes it.
"""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loguru import logger

from replay_adapters.media import let_decord_read_headers_first
from replay_adapters.session.session import Session, current, opened
from replay_adapters.settings.benchmarks import answers_calls
from replay_adapters.settings.pairs import Protocol
from replay_adapters.vlmevalkit.answering import answer_ahead
from replay_adapters.vlmevalkit.inputs import built
from replay_adapters.vlmevalkit.journal import Journal, ask_again, finish, note_sample, take_over
from replay_adapters.vlmevalkit.partials import keep_partial_answers_without_pickle
from replay_adapters.vlmevalkit.planned import Build, Planned
from replay_adapters.vlmevalkit.rows import remember_rows, rows_of
from replay_adapters.vlmevalkit.scoring import score_every_sample
from replay_adapters.vlmevalkit.video_questions import bare

_MARK = "_activation_replay"
FAILED = 1


def install() -> None:
    """Apply every patch, once; before or after the harness's run script was imported."""
    join_records_with_samples()
    resume_by_sample()
    keep_partial_answers_without_pickle()
    video_sets_by_name()
    sets_of_run_files_keep_their_name()
    processes_without_cuda()
    videommmu_is_unpacked()
    remember_rows()
    let_decord_read_headers_first()


def join_records_with_samples() -> None:
    """Write records beside the predictions, and keep runs with different settings apart.

    Upstream has no place for records (a column for image sets only), and takes whatever predictions
    it finds in a model's folder.
    """
    from vlmeval import inference, inference_video
    from vlmeval.smp import get_pred_file_path

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def job(
            model: Any, work_dir: str, model_name: str, dataset: Any, *rest: Any, **more: Any
        ) -> Any:
            planned = _planned(model, model_name)
            rank, world = _rank_and_world()
            label = _label(dataset, model_name, more.get("result_file"))
            journal = Journal(Path(work_dir), label, rank, world)
            if planned is None:
                model = original(model, work_dir, model_name, dataset, *rest, **more)
                if rank == 0:
                    rows_of(dataset, more.get("limit"), None).write(journal)
                return model
            named = dataset.dataset_name
            planned.settings.check_tasks([named], loop=bool(answers_calls(named)))
            journal.check_settings(planned.fingerprint, planned.summary())
            if rank == 0 and more.get("retry_failed", True):
                file = more.get("result_file") or get_pred_file_path(
                    work_dir, model_name, dataset.dataset_name, use_env_format=True
                )
                ask_again(journal, Path(file))
            try:
                with opened(Session(journal=journal)):
                    model = original(model, work_dir, model_name, dataset, *rest, **more)
                if rank == 0:
                    finish(journal, planned, dataset)
                    score_every_sample(dataset, journal)
            finally:
                if rank == 0:
                    rows_of(dataset, more.get("limit"), journal.lines()).write(journal)
            return model

        return job

    _everywhere(inference, "infer_data_job", wrap)
    _everywhere(inference_video, "infer_data_job_video", wrap)


def resume_by_sample() -> None:
    """Go on behind the last finished sample, and stop all processes when one of them fails.

    Upstream saves every 10 samples of an image set and every 20 of a video set; a process that
    fails leaves the others waiting for an hour.
    """
    from vlmeval import inference, inference_video

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def infer_data(
            model: Any, model_name: str, work_dir: str, dataset: Any, out_file: str, **more: Any
        ) -> Any:
            session = current()
            if session is None:
                return original(model, model_name, work_dir, dataset, out_file, **more)
            begun = take_over(session.journal, Path(out_file))
            if begun:
                logger.info(f"replay: {begun} samples were answered by an earlier run")
            _restore_frame_sampling(model)
            try:
                planned = _planned(model, model_name)
                with _watching(dataset, planned.settings.protocol if planned else Protocol()):
                    if planned is not None and planned.settings.engine is not None:
                        model = _built(model, model_name)
                        named = (model, model_name, work_dir, dataset)
                        answer_ahead(*named, session, Path(out_file))
                    return original(model, model_name, work_dir, dataset, out_file, **more)
            except Exception:
                if _rank_and_world()[1] == 1:
                    raise
                logger.exception(f"{model_name} failed on {dataset.dataset_name}")
                sys.exit(FAILED)

        return infer_data

    _everywhere(inference, "infer_data", wrap)
    _everywhere(inference_video, "infer_data", wrap)


def video_sets_by_name() -> None:
    """Let ``--data`` take the name of a video set.

    Upstream hands the whole command line to the dataset's constructor, which refuses it.
    """
    import inspect

    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    def lenient(build: Any) -> Any:
        taken = inspect.signature(build).parameters

        @functools.wraps(build)
        def built(**arguments: Any) -> Any:
            return build(**{k: v for k, v in arguments.items() if k in taken and k != "dataset"})

        setattr(built, _MARK, True)
        return built

    for name, build in supported_video_datasets.items():
        if not hasattr(build, _MARK):
            supported_video_datasets[name] = lenient(build)


def sets_of_run_files_keep_their_name() -> None:
    """Let a run file name a set whose class takes anything, as MMMU-Pro's does.

    Upstream passes on only what the constructor's signature names; without ``dataset``, such a
    class silently builds another set, its base class's default.
    """
    import inspect

    from vlmeval.dataset import DATASET_CLASSES

    for kind in DATASET_CLASSES:
        own = inspect.signature(kind.__init__)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in own.parameters.values())
        if open_ended and "dataset" not in own.parameters:
            inherited = inspect.signature(super(kind, kind).__init__)
            merged = {**inherited.parameters, **own.parameters}
            ordered = sorted(merged.values(), key=lambda parameter: parameter.kind)
            kind.__init__.__signature__ = own.replace(parameters=ordered)


def processes_without_cuda() -> None:
    """Let several processes run on the CPU, where upstream asks for nccl all the same."""
    import torch
    import torch.distributed as dist

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def init_process_group(backend: Any = None, *rest: Any, **more: Any) -> Any:
            if backend == "nccl" and not torch.cuda.is_available():
                backend = "gloo"
            return original(backend, *rest, **more)

        return init_process_group

    _everywhere(dist, "init_process_group", wrap)


def videommmu_is_unpacked() -> None:
    """Unpack VideoMMMU's clips behind its download.

    Upstream makes the folder for them first, and then unpacks nothing because the folder is there;
    so no clip is found. To be dropped when a fresh download of the set has its clips.
    """
    from vlmeval.dataset import videommmu

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def fetched(*given: Any, **more: Any) -> str:
            folder = Path(original(*given, **more))
            for archive in sorted(folder.glob("*.zip")):
                done = folder / "videos" / f".{archive.stem}"
                if not done.exists():
                    shutil.unpack_archive(archive, folder / "videos")
                    done.touch()
            return str(folder)

        setattr(fetched, _MARK, True)
        return fetched

    if not hasattr(videommmu.snapshot_download, _MARK):
        videommmu.snapshot_download = wrap(videommmu.snapshot_download)


@contextlib.contextmanager
def gpu_memory_known(kind: type) -> Iterator[None]:
    """Let a class's constructor pass its check for a GPU, which it makes through nvidia-smi."""
    modules = [sys.modules[base.__module__] for base in kind.__mro__]
    asking = [module for module in modules if hasattr(module, "get_gpu_memory")]
    originals = [module.get_gpu_memory for module in asking]
    for module in asking:
        module.get_gpu_memory = lambda: [1]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, original in zip(asking, originals, strict=True):
            module.get_gpu_memory = original  # type: ignore[attr-defined]


def own_device() -> str:
    """Return this process's device.

    Upstream gives each of several processes its GPUs through CUDA_VISIBLE_DEVICES, which is too
    late where something has counted the GPUs before; then the process takes its own by number.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    meant = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    seen = torch.cuda.device_count()
    if not meant or len(meant) == seen or int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == 1:
        return "cuda:0"
    return f"cuda:{meant[0]}"


@contextlib.contextmanager
def _watching(dataset: Any, protocol: Protocol) -> Iterator[None]:
    """Note the sample of every prompt that the dataset builds; it is given a row or its number."""
    build = dataset.build_prompt

    @functools.wraps(build)
    def watched(line: Any, *rest: Any, **more: Any) -> Any:
        row = dataset.data.iloc[line] if hasattr(line, "__index__") else line
        note_sample(row)

        def asked() -> Any:
            return bare(build(line, *rest, **more), row, dataset, protocol)

        return built(asked, row)

    dataset.build_prompt = watched
    try:
        yield
    finally:
        del dataset.build_prompt  # uncovers the class's own


def _restore_frame_sampling(model: Any) -> None:
    """Undo what the last video set did to a model's fps and nframe, which upstream leaves there."""
    if hasattr(model, "frame_sampling"):
        model.fps, model.nframe = model.frame_sampling


def _built(model: Any, name: str) -> Any:
    """Return a model, which upstream knows by its name until it is built."""
    from vlmeval.config import supported_VLM

    return supported_VLM[name]() if isinstance(model, str) else model


def _planned(model: Any, name: str) -> Planned | None:
    """Return what one of our models does, built or not; None for another model."""
    from vlmeval.config import supported_VLM

    if isinstance(model, str):
        entry = supported_VLM.get(name)
        return entry.planned if isinstance(entry, Build) else None
    found: Planned | None = getattr(model, "plan", None)
    return found if isinstance(found, Planned) else None


def _label(dataset: Any, model_name: str, result_file: str | None) -> str:
    """Return a dataset's name in file names, as upstream has it there."""
    if result_file is None or dataset.MODALITY != "VIDEO":
        return str(dataset.dataset_name)
    return Path(result_file).stem.removeprefix(f"{model_name}_")


def _rank_and_world() -> tuple[int, int]:
    from vlmeval.smp import get_rank_and_world_size

    rank, world = get_rank_and_world_size()
    return int(rank), int(world)


def _everywhere(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace ``owner.name`` by ``wrap`` of it, also where it was imported to; once."""
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return
    wrapped = wrap(original)
    setattr(wrapped, _MARK, True)
    for module in list(sys.modules.values()):
        if vars(module).get(name) is original if hasattr(module, "__dict__") else False:
            setattr(module, name, wrapped)
