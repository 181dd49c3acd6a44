"""What lmms-eval 0.7.3 has no door for: one small named function each.

Every patch passes through unless one of our models is being evaluated. A test names the patched
symbol when upstream changes it.
"""

import importlib
import os
import sys
import types
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from replay_adapters.lmms_eval.arguments import parse_generation, tell_seed
from replay_adapters.lmms_eval.judges import check_tasks
from replay_adapters.lmms_eval.names import MODEL_NAMES
from replay_adapters.lmms_eval.scoring import no_option_is_wrong, scorers, scoring_threads
from replay_adapters.media import let_decord_read_headers_first
from replay_adapters.session.records import summed
from replay_adapters.session.session import (
    ContextThreads,
    Replaying,
    Session,
    joined,
    opened,
    while_evaluating,
)
from replay_adapters.settings.resources import resource

_MARK = "_activation_replay"


def install() -> None:
    """Apply what must be in place between a model's construction and its evaluation."""
    read_parent_prompts()
    separate_cached_answers()
    cache_lasting_answers()
    build_requests_anew()
    keep_broken_pictures()
    read_each_input_on_its_own()
    write_records()
    let_threads_see_the_session()
    score_unparsable_hrbench_answers()
    let_decord_read_headers_first()


def find_plugin_tasks(task_manager: type) -> None:
    """Let ``--tasks`` find our tasks without ``--include_path``.

    Upstream has an entry point for models but none for tasks. To be dropped when it has one.
    """
    find_included_tasks()

    def wrap(original: Any) -> Any:
        @wraps(original)
        def initialize(self: Any, include_path: Any = None, include_defaults: bool = True) -> Any:
            paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
            return original(self, [*paths, str(resource("tasks"))], include_defaults)

        return initialize

    _once(task_manager, "initialize_tasks", wrap)


def find_included_tasks() -> None:
    """Let a task file include one of the harness's, as ``lmms_eval/tasks/mmmu/mmmu_val.yaml``.

    Upstream looks in the working directory and beside the file only. To be dropped when it looks in
    its own package, too. VideoMMMU's code wants HF_HOME to be set: it is, to the hub's own default.
    """
    from huggingface_hub.constants import HF_HOME
    from lmms_eval import tasks, utils

    package = Path(tasks.__file__).parent

    def wrap(original: Any) -> Any:
        @wraps(original)
        def load(yaml_path: Any = None, *given: Any, **options: Any) -> Any:
            _, named, within = str(yaml_path).rpartition("lmms_eval/tasks/")
            if named and not Path(yaml_path).is_file():
                yaml_path = str(package / within)
                os.environ.setdefault("HF_HOME", HF_HOME)
            return original(yaml_path, *given, **options)

        return load

    _once(utils, "load_yaml_config", wrap)


def mend_latex2sympy2() -> None:
    """Give the name ``latex2sympy2`` a module that can be imported.

    Beside a math-verify that works, pip installs latex2sympy2 1.5.4, whose import fails, and with
    it the scorers of mathvision, stare and emma. ``latex2sympy2_extended``, which math-verify
    needs anyway, has the same function. To be dropped when lmms-eval imports that one.
    """
    try:
        importlib.import_module("latex2sympy2")
    except ImportError:
        module = types.ModuleType("latex2sympy2", "Stands in for one that cannot be imported.")
        module.latex2sympy = _latex2sympy  # type: ignore[attr-defined]
        sys.modules["latex2sympy2"] = module


def _latex2sympy(*arguments: Any, **options: Any) -> Any:
    from latex2sympy2_extended.latex2sympy2 import latex2sympy

    return latex2sympy(*arguments, **options)


def keep_task_managers(harness: Any) -> None:
    """Let an evaluation take the task manager that its tasks were checked with.

    Upstream reads the files of all its tasks whenever it makes one (3 s). To be dropped when it
    keeps its index.
    """

    def wrap(original: Any) -> Any:
        made: dict[str, Any] = {}

        @wraps(original)
        def manager(*given: Any, **options: Any) -> Any:
            key = repr((given, sorted(options.items())))
            if key not in made:
                made[key] = original(*given, **options)
            return made[key]

        return manager

    _once(harness, "TaskManager", wrap)


def open_sessions() -> None:
    """Open a session around every ``simple_evaluate``, before it builds the model.

    Upstream has no hook there, and loads plugins while its evaluator is still being imported: what
    can be reached is the decorator that it puts on the function.
    """
    from lmms_eval import utils

    def wrap(original: Any) -> Any:
        @wraps(original)
        def decorate(function: Any) -> Any:
            decorated = original(function)
            return _in_a_session(decorated) if function.__name__ == "simple_evaluate" else decorated

        return decorate

    _once(utils, "positional_deprecated", wrap)


def _in_a_session(simple_evaluate: Any) -> Any:
    @wraps(simple_evaluate)
    def evaluate(model: Any, *arguments: Any, **options: Any) -> Any:
        with opened(Session(model if isinstance(model, Replaying) else None)):
            return simple_evaluate(model, *arguments, **options)

    return evaluate


def let_threads_see_the_session() -> None:
    """Start the threads of the scorers and of the simple Qwen3-VL class in their caller's context.

    A thread of upstream's pools starts in an empty one, where no session is open. To be dropped
    when ``ThreadPoolExecutor`` hands its caller's context on.
    """
    for name in ("lmms_eval.evaluator", "lmms_eval.models.simple.qwen3_vl"):
        _once(importlib.import_module(name), "ThreadPoolExecutor", lambda _: ContextThreads)


def read_parent_prompts() -> None:
    """Let a replay name read the prompts and settings that tasks keep for its parent's name.

    Tasks key ``lmms_eval_specific_kwargs`` and the like by model name, so a replay name would
    silently get the default prompt. To be dropped when a manifest can name a parent.
    """
    from lmms_eval.api.task import ConfigurableTask

    tables = (
        "lmms_eval_specific_kwargs",
        "model_specific_target_kwargs",
        "model_specific_generation_kwargs",
    )

    def prepare(session: Session, original: Any, task: Any) -> None:
        named = [getattr(task.config, table) or {} for table in tables]
        own = any(task.model_name in table for table in named)
        if task.model_name in MODEL_NAMES and not own:
            task.model_name = session.model.parent_name
        original(task)

    _once(ConfigurableTask, "_prepare_model_specific_config", while_evaluating(prepare))


def keep_broken_pictures() -> None:
    """Let a task be built, and its documents be looked up, although a picture is broken.

    Upstream decodes the first document to build a task, and every document where pictures stand in
    lists or ``--process_with_media`` is given: one broken picture would end the run there.
    """
    from lmms_eval.api.task import ConfigurableTask

    from replay_adapters.lmms_eval.documents import make_tolerant

    def download(session: Session, original: Any, task: Any, dataset_kwargs: Any = None) -> None:
        original(task, dataset_kwargs)
        for table in (task.dataset, task.dataset_no_image):
            for split in table.values():
                make_tolerant(split.info.features)

    _once(ConfigurableTask, "download", while_evaluating(download))


def read_each_input_on_its_own() -> None:
    """Mend how the Qwen classes read pictures and clips; ``reading`` says which defects."""
    from qwen_vl_utils import vision_process

    from replay_adapters.lmms_eval import reading

    _once(vision_process, "smart_nframes", while_evaluating(reading.own_frame_counts))
    _once(vision_process, "smart_resize", while_evaluating(reading.named_sizes))
    last_resort = while_evaluating(reading.no_last_resort)(vision_process._read_video_torchvision)
    vision_process.VIDEO_READER_BACKENDS["torchvision"] = last_resort
    for name in reading.MODULES:
        read = partial(reading.row_by_row, module=name)
        _once(importlib.import_module(name), "process_vision_info", while_evaluating(read))
    for name in reading.READING_FIRST_FRAMES:
        _once(importlib.import_module(name), "decord", reading.no_first_frames)


def separate_cached_answers() -> None:
    """Make our settings, weights and versions part of the key of ``--use_cache``.

    Upstream keys an answer by the text of the model arguments: an edited pair file, new weights
    behind an old path or another plugin version would be served old answers.
    """
    from lmms_eval.caching.response_cache import ResponseCache

    def create(
        session: Session, original: Any, cls: type, cache_root: str, *, model: str = "", **more: Any
    ) -> Any:
        if model in MODEL_NAMES:
            model = f"{model}|{session.model.fingerprint()}"
        return original(cls, cache_root, model=model, **more)

    _once(ResponseCache, "create", while_evaluating(create))


def cache_lasting_answers() -> None:
    """Keep answers that depended on the moment, as where memory ran out, out of ``--use_cache``.

    Upstream stores every answer that is not empty, and fills a lost store from its audit log.
    """
    from lmms_eval.caching.response_cache import ResponseCache

    def store(session: Session, original: Any, cache: Any, key: str, kind: str, *told: Any) -> None:
        task, document, *_ = told
        if session.records.lasts(task, document):
            original(cache, key, kind, *told)

    def log(session: Session, original: Any, cache: Any, *told: Any, **facts: Any) -> None:
        _kind, task, document, *_ = told
        if not session.records.lasts(task, document):
            facts |= {"cache_key": "", "deterministic": False}
        original(cache, *told, **facts)

    _once(ResponseCache, "_store", while_evaluating(store))
    _once(ResponseCache, "_log_to_audit", while_evaluating(log))


def build_requests_anew() -> None:
    """Read no requests that an earlier run has kept, and keep none.

    Upstream unpickles a task's file of them in each run, also without ``--cache_requests``: reading
    a pickle runs whatever code is in it. To be dropped when it looks only where it is asked to, and
    keeps them in another form.
    """
    from lmms_eval.api import task

    def nothing(session: Session, original: Any, *given: Any, **more: Any) -> None:
        return None

    for name in ("load_from_cache", "save_to_cache"):
        _once(task, name, while_evaluating(nothing))


def score_unparsable_hrbench_answers() -> None:
    """Count an answer wrong in which HR-Bench's scorer finds no option; upstream loses all answers.

    ``scoring`` says how. To be dropped when upstream returns "Z" for such an answer.
    """
    from lmms_eval.tasks.hrbench.hrbench_evals import HRBenchEval

    _once(HRBenchEval, "get_chat_response", while_evaluating(no_option_is_wrong))


def write_records() -> None:
    """Put records into the samples file and their totals into the results file.

    Upstream logs fixed fields per sample, and per run only averages of numbers. This is also where
    a task without its judge is refused.
    """
    from lmms_eval import evaluator

    def process(session: Session, original: Any, item: Any, *, task: Any, **more: Any) -> Any:
        processed = original(item, task=task, **more)
        if processed.logged_sample is not None:
            processed.logged_sample["replay"] = session.records.of(task.config.task, item[0])
            answers = [list(request.resps) for request in item[2]]
            if any(len(given) > 1 for given in answers):  # of which filters leave one
                processed.logged_sample["replay_answers"] = answers
        return processed

    def wrap(original: Any) -> Any:
        @wraps(original)
        def evaluate(*, lm: Any, cli_args: Any = None, **options: Any) -> Any:
            if not isinstance(lm, Replaying):
                with opened():
                    return original(lm=lm, cli_args=cli_args, **options)
            with joined(lm) as session:
                session.command_line = parse_generation(getattr(cli_args, "gen_kwargs", None))
                session.scorers = scorers(options["task_dict"])
                tell_seed(getattr(cli_args, "seed", None))
                if options.get("eval_server_launcher") is None:  # which starts the judge
                    check_tasks(options["task_dict"])
                asked = options.get("process_docs_parallel", 1)
                threads = scoring_threads(int(asked), session.scorers.values())
                options["process_docs_parallel"] = threads
                results = original(lm=lm, cli_args=cli_args, **options)
                settings, total = lm.settings.summary(), summed(session.records)
                if results is not None:  # only the first process has them
                    results["replay"] = {**settings, **lm.provenance, "totals": total}
                return results

        return evaluate

    _once(evaluator, "_process_document_results", while_evaluating(process))
    _once(evaluator, "evaluate", wrap)


def _once(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace ``owner.name`` by ``wrap`` of it, the first time only; class methods stay such."""
    original = vars(owner)[name]
    bound = isinstance(original, classmethod)
    function = original.__func__ if bound else original
    if getattr(function, _MARK, False):
        return
    wrapped = wrap(function)
    setattr(wrapped, _MARK, True)
    setattr(owner, name, classmethod(wrapped) if bound else wrapped)
