"""What lmms-eval 0.7.3 has no door for: one small named function each.

Every patch passes through unless one of our models is being evaluated. A test names the patched
symbol when upstream changes it.
"""

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replay_adapters.lmms_eval import MODEL_NAMES
from replay_adapters.settings.resources import resource

if TYPE_CHECKING:
    from replay_adapters.lmms_eval.mixin import ReplayMixin

_MARK = "_activation_replay"
_current: "ReplayMixin | None" = None


def install(model: "ReplayMixin") -> None:
    """Apply what must be in place between a model's construction and its evaluation."""
    global _current
    _current = model
    read_parent_prompts()
    separate_cached_answers()
    cache_lasting_answers()
    keep_broken_pictures()
    read_each_input_on_its_own()
    write_records()


def find_plugin_tasks(task_manager: type) -> None:
    """Let ``--tasks`` find our tasks without ``--include_path``.

    Upstream has an entry point for models but none for tasks. To be dropped when it has one.
    """

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def initialize_tasks(
            self: Any, include_path: Any = None, include_defaults: bool = True
        ) -> Any:
            paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
            return original(self, [*paths, str(resource("tasks"))], include_defaults)

        return initialize_tasks

    _once(task_manager, "initialize_tasks", wrap)


def mend_latex2sympy2() -> None:
    """Give the name ``latex2sympy2`` a module that can be imported.

    Beside a math-verify that works, pip installs latex2sympy2 1.5.4, whose import fails, and with
    it the scorers of mathvision, stare and emma. ``latex2sympy2_extended``, which math-verify
    needs anyway, has the same function. To be dropped when lmms-eval imports that one.
    """
    try:
        importlib.import_module("latex2sympy2")
    except ImportError:
        module = types.ModuleType(
            "latex2sympy2", "Stands in for a release that cannot be imported."
        )
        module.latex2sympy = _latex2sympy  # type: ignore[attr-defined]
        sys.modules["latex2sympy2"] = module


def _latex2sympy(*arguments: Any, **options: Any) -> Any:
    from latex2sympy2_extended.latex2sympy2 import latex2sympy

    return latex2sympy(*arguments, **options)


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

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def prepare(self: Any) -> None:
            named = [getattr(self.config, table) or {} for table in tables]
            own = any(self.model_name in table for table in named)
            if _current is not None and self.model_name in MODEL_NAMES and not own:
                self.model_name = _current.parent_name
            original(self)

        return prepare

    _once(ConfigurableTask, "_prepare_model_specific_config", wrap)


def keep_broken_pictures() -> None:
    """Let a task be built, and its documents be looked up, although a picture is broken.

    Upstream decodes the first document to build a task, and every document where pictures stand in
    lists or ``--process_with_media`` is given: one broken picture would end the run there.
    """
    from lmms_eval.api.task import ConfigurableTask

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def download(self: Any, dataset_kwargs: Any = None) -> None:
            original(self, dataset_kwargs)
            if _current is not None:
                from replay_adapters.lmms_eval.documents import make_tolerant

                for table in (self.dataset, self.dataset_no_image):
                    for split in table.values():
                        make_tolerant(split.info.features)

        return download

    _once(ConfigurableTask, "download", wrap)


def read_each_input_on_its_own() -> None:
    """Mend how the Qwen classes read pictures and clips; ``reading`` says which defects."""
    from replay_adapters.lmms_eval import reading

    reading.install(lambda: _current, _once)


def separate_cached_answers() -> None:
    """Make our settings, weights and versions part of the key of ``--use_cache``.

    Upstream keys an answer by the text of the model arguments: an edited pair file, new weights
    behind an old path or another plugin version would be served old answers.
    """
    from lmms_eval.caching.response_cache import ResponseCache

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def create(cls: type, cache_root: str, *, model: str = "", **arguments: Any) -> Any:
            if _current is not None and model in MODEL_NAMES:
                model = f"{model}|{_current.fingerprint()}"
            return original(cls, cache_root, model=model, **arguments)

        return create

    _once(ResponseCache, "create", wrap)


def cache_lasting_answers() -> None:
    """Keep answers that depended on the moment, as where memory ran out, out of ``--use_cache``.

    Upstream stores every answer that is not empty, and fills a lost store from its audit log.
    """
    from lmms_eval.caching.response_cache import ResponseCache

    def lasts(task: str, document: Any) -> bool:
        return _current is None or _current.book.lasts(task, document)

    def wrap_store(original: Any) -> Any:
        @functools.wraps(original)
        def store(self: Any, key: str, kind: str, task: str, document: Any, *rest: Any) -> None:
            if lasts(task, document):
                original(self, key, kind, task, document, *rest)

        return store

    def wrap_log(original: Any) -> Any:
        @functools.wraps(original)
        def log(self: Any, kind: str, task: str, document: Any, *rest: Any, **facts: Any) -> None:
            if not lasts(task, document):
                facts |= {"cache_key": "", "deterministic": False}
            original(self, kind, task, document, *rest, **facts)

        return log

    _once(ResponseCache, "_store", wrap_store)
    _once(ResponseCache, "_log_to_audit", wrap_log)


def write_records() -> None:
    """Put records into the samples file and their totals into the results file.

    Upstream logs fixed fields per sample, and per run only averages of numbers.
    """
    from lmms_eval import evaluator

    def wrap_document(original: Any) -> Any:
        @functools.wraps(original)
        def process(item: Any, *, task: Any, **arguments: Any) -> Any:
            processed = original(item, task=task, **arguments)
            if _current is not None and processed.logged_sample is not None:
                processed.logged_sample["replay"] = _current.book.of(task.config.task, item[0])
                answers = [list(request.resps) for request in item[2]]
                if any(len(given) > 1 for given in answers):  # of which filters leave one
                    processed.logged_sample["replay_answers"] = answers
            return processed

        return process

    def wrap_evaluate(original: Any) -> Any:
        @functools.wraps(original)
        def evaluate(*, lm: Any, cli_args: Any = None, **options: Any) -> Any:
            from replay_adapters.lmms_eval.arguments import parse_generation, tell_seed
            from replay_adapters.lmms_eval.scoring import scoring_threads

            global _current
            _current = lm if hasattr(lm, "book") else None
            if _current is None:
                return original(lm=lm, cli_args=cli_args, **options)
            _current.command_line_generation = parse_generation(
                getattr(cli_args, "gen_kwargs", None)
            )
            tell_seed(getattr(cli_args, "seed", None))
            asked = options.get("process_docs_parallel", 1)
            options["process_docs_parallel"] = scoring_threads(int(asked))
            try:
                results = original(lm=lm, cli_args=cli_args, **options)
                summary = _current.summary()
                if results is not None:  # only the first process has them
                    results["replay"] = summary
                return results
            finally:
                _current = None

        return evaluate

    _once(evaluator, "_process_document_results", wrap_document)
    _once(evaluator, "evaluate", wrap_evaluate)


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
