"""An lmms-eval task's documents and its own scorer, without a model."""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from PIL import Image

from replay_adapters.lmms_eval.metrics import number
from replay_adapters.lmms_eval.patches import find_plugin_tasks
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown
from replay_core.studies.bench import Question

# What lmms-eval's command line strips from an answer before it is scored.
REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'


class Questions:
    """One generate_until task: its documents, requests, targets and scores.

    ``model`` is the name under which the task keeps prompts; ``simple`` asks for the requests of
    the harness's simple classes.

    Raises:
        UsageError: an unknown task, a group of tasks, or one that does not ask for free text.
    """

    def __init__(
        self, name: str, model: str, *, simple: bool = False, include_path: str | None = None
    ) -> None:
        self.name = name
        self.task = _task(name, model, include_path, simple=simple)
        self._requests: dict[int, Any] = {}

    def check_metric(self, metric: str | None) -> None:
        """Raise UsageError where the task lists its metrics, and a named one is not among them.

        A scorer may give more than the task lists: those are told when the first answer is scored.
        """
        listed = [str(entry["metric"]) for entry in self.task.config.metric_list or ()]
        if metric is not None and listed and metric not in listed:
            raise UsageError(
                f"--metric {shown(metric)} is not a metric of task {self.name} (allowed: "
                f"{', '.join(listed)})"
            )

    def digest(self) -> str:
        """Return 12 hexadecimal digits of the task's configuration, the same in every process."""
        dump = json.dumps(self.task.dump_config(), sort_keys=True, default=_shape)
        dump = re.sub(r" at 0x[0-9a-f]+", "", dump)  # functions stand there with their address
        return hashlib.sha256(dump.encode()).hexdigest()[:12]

    def request(self, document: int) -> Any:
        """Return a document's request, as the harness made it."""
        return self._requests[document]

    def documents(self, n: int | None, offset: int = 0) -> list[int]:
        """Return the first ``n`` documents behind ``offset``; all where None.

        Raises:
            UsageError: there are none.
        """
        with quiet_bars():
            self.task.build_all_requests(limit=n, offset=offset)
        for request in self.task.instances:
            self._requests.setdefault(request.doc_id, request)
        documents = sorted({request.doc_id for request in self.task.instances})
        if not documents:
            raise UsageError(f"task {self.name} has no documents behind number {offset}")
        return documents

    def score(self, document: int, text: str, metric: str | None = None) -> float:
        """Return the task's own score of a text, through its filters and ``process_results``.

        ``metric`` is the first of the task's list where None.

        Raises:
            UsageError: the task gives no number under that name.
        """
        from lmms_eval import evaluator

        request = self._requests[document]
        # A task that asks several times scores a list; one answer stands for all of them.
        repeats = int(getattr(self.task.config, "repeats", 1) or 1)
        request.resps, request.filtered_resps = [text] * repeats, {}
        for ensemble in self.task._filters:
            ensemble.apply([request], self.task.task_docs)
        tags = evaluator.parse_reasoning_tags_config(
            cli_value=REASONING_TAGS, task_value=getattr(self.task.config, "reasoning_tags", None)
        )
        processed = evaluator._process_document_results(
            (document, self.document(document), [request]),
            task=self.task,
            filter_key=next(iter(request.filtered_resps)),
            reasoning_tags=tags,
            log_samples=False,
        )
        return self._number(processed.metrics, metric)

    def _number(self, metrics: dict[str, Any], metric: str | None) -> float:
        name = metric or next(
            (entry["metric"] for entry in self.task.config.metric_list or ()), None
        )
        value = number(metrics, name, getattr(self.task.config, "score_key", "score"))
        if value is None:
            raise UsageError(
                f"metric {name!r} of task {self.name} is no number per document "
                f"(give --metric one of: {', '.join(metrics)})"
            )
        return value

    def document(self, document: int) -> dict[str, Any]:
        """Return a document with its media."""
        split = self.task.config.test_split or self.task.config.validation_split
        found: dict[str, Any] = self.task.dataset[split][document]
        return found

    def question(self, document: int) -> Question:
        """Return what a document asks: the text of its request, its target and first picture."""
        values = self.document(document)
        pictures = [one for one in self.task.doc_to_visual(values) if isinstance(one, Image.Image)]
        return Question(
            str(self.request(document).args[0]),
            str(self.task.doc_to_target(values)),
            pictures[0].convert("RGB") if pictures else None,
        )


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep the harness's own progress bars, one per batch here, off the terminal."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _task(name: str, model: str, include_path: str | None, *, simple: bool) -> Any:
    from lmms_eval.tasks import TaskManager, get_task_dict

    find_plugin_tasks(TaskManager)
    try:
        manager = TaskManager("ERROR", include_path, model_name=model)
    except Exception as error:  # whatever a file there makes of upstream's reader
        if include_path is None:
            raise
        why = shown(" ".join(str(error).split()) or repr(error), 200)
        raise UsageError(
            f"--include-path {shown(include_path)} holds a task file that cannot be read: {why}"
        ) from error
    if name not in manager.all_tasks:
        raise UsageError(
            f"task {shown(name)} is not known; {did_you_mean(name, manager.all_tasks)}"
            "`lmms_eval --tasks list` shows all; your own ones need --include-path"
        )
    if manager.task_index[name]["type"] in ("group", "tag"):
        raise UsageError(f"task {name} is a group; give one task of it: {_members(manager, name)}")
    try:
        task: Any = get_task_dict([name], manager, "simple" if simple else "chat")[name]
    except Exception as error:  # whatever upstream's loader, or the task's own code, raises
        why = shown(" ".join(str(error).split()) or repr(error), 200)
        raise UsageError(f"task {name} and its data cannot be loaded: {why}") from error
    if task.OUTPUT_TYPE != "generate_until":
        raise UsageError(
            f"task {name} asks for {task.OUTPUT_TYPE}; the studies take generate_until tasks"
        )
    task.set_fewshot_seed(seed=1234)
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    return task


def _members(manager: Any, group: str) -> str:
    """Return the names of a group's tasks, as its file or its tag has them."""
    entry = manager.task_index[group]
    listed = entry["task"] if entry["task"] != -1 else manager._get_config(group).get("task")
    each = [listed] if isinstance(listed, str) else listed or ()
    names = (one if isinstance(one, str) else one.get("task", one.get("group")) for one in each)
    return ", ".join(map(str, names))


def _shape(value: Any) -> str:
    """Return what a function in a task's config is called, without its address."""
    return getattr(value, "__qualname__", type(value).__name__)


def picture_of(name: str, document: int, include_path: str | None = None) -> Image.Image:
    """Return the first picture of a task's document.

    Raises:
        UsageError: there is no such task.
    """
    from lmms_eval.tasks import TaskManager, get_task_dict

    find_plugin_tasks(TaskManager)
    manager = TaskManager("ERROR", include_path)
    if name not in manager.all_tasks:
        raise UsageError(f"task {name} is not known; give --include-path, or --image")
    task = get_task_dict([name], manager, "chat")[name]
    config = task.config
    values = task.dataset[config.test_split or config.validation_split][int(document)]
    picture: Image.Image = task.doc_to_visual(values)[0]
    return picture.convert("RGB")
