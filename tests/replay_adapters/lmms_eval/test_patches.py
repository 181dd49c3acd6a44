"""The upstream symbols that we patch or rely on are still what the patches expect."""

import inspect
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import pytest
from lmms_eval import evaluator, utils
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.models.chat.internvl_hf import InternVLHf as InternVLChat
from lmms_eval.models.chat.llava_hf import LlavaHf as LlavaChat
from lmms_eval.models.chat.qwen2_5_vl import Qwen2_5_VL as Qwen25Chat
from lmms_eval.models.chat.qwen3_vl import Qwen3_VL as Qwen3Chat
from lmms_eval.models.simple import qwen3_vl as simple_qwen3_vl
from lmms_eval.models.simple.llava_hf import LlavaHf as LlavaSimple
from lmms_eval.models.simple.qwen2_5_vl import Qwen2_5_VL as Qwen25Simple
from lmms_eval.models.simple.qwen2_vl import Qwen2_VL
from lmms_eval.models.simple.qwen3_vl import Qwen3_VL as Qwen3Simple
from lmms_eval.tasks import TaskManager

from replay_adapters.lmms_eval import patches
from replay_adapters.lmms_eval.escaping import brought_back, escaping
from replay_adapters.session.session import ContextThreads, Replaying, current, opened

DOCUMENT = ["request_type", "task_name", "doc_id", "idx"]
PRINTS = ["task_fingerprint", "content_hash", "model_fingerprint_hash"]


def parameters(function) -> list[str]:
    return list(inspect.signature(inspect.unwrap(function)).parameters)


@pytest.mark.parametrize(
    ("symbol", "function", "expected"),
    [
        (
            "TaskManager.initialize_tasks",
            TaskManager.initialize_tasks,
            ["self", "include_path", "include_defaults"],
        ),
        (
            "ConfigurableTask._prepare_model_specific_config",
            ConfigurableTask._prepare_model_specific_config,
            ["self"],
        ),
        (
            "ConfigurableTask.download",
            ConfigurableTask.download,
            ["self", "dataset_kwargs"],
        ),
        (
            "ResponseCache.create",
            ResponseCache.create.__func__,
            ["cls", "cache_root", "model", "model_args", "task_dict", "world_size", "global_rank"],
        ),
        (
            "ResponseCache._store",
            ResponseCache._store,
            ["self", "cache_key", *DOCUMENT, "gen_kwargs", "response"],
        ),
        (
            "ResponseCache._log_to_audit",
            ResponseCache._log_to_audit,
            ["self", *DOCUMENT, "gen_kwargs", "response", "cache_key", "deterministic", *PRINTS],
        ),
        (
            "evaluator._thread_map_ordered",
            evaluator._thread_map_ordered,
            ["function", "items", "max_workers", "on_complete"],
        ),
        (
            "evaluator._process_document_results",
            evaluator._process_document_results,
            ["item", "task", "filter_key", "reasoning_tags", "log_samples"],
        ),
    ],
)
def test_a_patched_symbol_has_the_signature_that_the_patch_was_written_for(
    symbol, function, expected
):
    assert parameters(function) == expected, f"upstream changed {symbol}"


def test_the_evaluator_is_called_with_the_keywords_that_the_patch_reads():
    source = inspect.getsource(inspect.unwrap(evaluator.simple_evaluate))
    facts = ("evaluate(\n            lm=lm,", "cli_args=cli_args,", "ResponseCache.create(")
    for fact in (*facts, "process_docs_parallel=process_docs_parallel,\n        )"):
        assert fact in source, f"upstream changed evaluator.simple_evaluate: no {fact!r}"


@pytest.mark.parametrize(
    "kind",
    [
        Qwen25Chat,
        Qwen25Simple,
        Qwen2_VL,
        Qwen3Chat,
        Qwen3Simple,
        InternVLChat,
        LlavaChat,
        LlavaSimple,
    ],
)
def test_the_classes_look_documents_up_and_generate_as_the_mixin_expects(kind):
    source = inspect.getsource(kind.generate_until)
    if "_preprocess_chunk" in vars(kind):  # looks the next batch up while this one is answered
        source += inspect.getsource(kind._preprocess_chunk)
    assert source.count("self.model.generate(") == 1, f"upstream changed {kind.__module__}"
    assert source.count("self.task_dict[") == 1, f"upstream changed {kind.__module__}"


@pytest.mark.parametrize("kind", [InternVLChat, LlavaChat, LlavaSimple])
def test_these_classes_still_swallow_what_generate_raises(kind):
    """If not, ``escaping`` and ``brought_back`` can go."""
    assert "except Exception as e" in inspect.getsource(kind.generate_until)


@pytest.mark.parametrize("module", [evaluator, simple_qwen3_vl])
def test_upstreams_threads_still_start_in_an_empty_context(module):
    """If not, ``let_threads_see_the_session`` can go."""
    patches.let_threads_see_the_session()
    assert module.ThreadPoolExecutor is ContextThreads
    assert inspect.getsource(module).count("with ThreadPoolExecutor(") == 1
    told = ContextVar("told", default="")
    token = told.set("by the caller")
    try:
        with ThreadPoolExecutor() as theirs, ContextThreads() as ours:
            assert theirs.submit(told.get).result() == ""
            assert ours.submit(told.get).result() == "by the caller"
    finally:
        told.reset(token)


def test_a_session_is_open_while_an_evaluation_runs_and_its_own():
    """``simple_evaluate`` asserts what tasks it is given; what it looks at tells where it runs."""
    seen = []

    class Tasks:
        def __ne__(self, other):
            seen.append(current())
            return False

    model = Replaying()
    with opened() as outer:
        for given in ("qwen2_vl_replay", model):
            with pytest.raises(AssertionError, match="No tasks specified"):
                evaluator.simple_evaluate(given, tasks=Tasks())
        assert current() is outer
    first, second = seen
    assert first is not outer
    assert second is not first
    assert (first.model, second.model) == (None, model)
    assert first.resolved is second.resolved is outer.resolved
    assert current() is None


def test_patching_twice_changes_nothing():
    before = TaskManager.initialize_tasks
    patches.find_plugin_tasks(TaskManager)
    patches.find_plugin_tasks(TaskManager)
    assert TaskManager.initialize_tasks in (before, vars(TaskManager)["initialize_tasks"])
    assert not hasattr(TaskManager.initialize_tasks.__wrapped__, "__wrapped__")


def test_a_task_file_includes_one_of_the_harness(tmp_path, monkeypatch):
    """In the working directory and beside the file, upstream looks by itself."""
    monkeypatch.chdir(tmp_path)
    patches.find_included_tasks()
    file = tmp_path / "mine.yaml"
    file.write_text("include: lmms_eval/tasks/mmmu/mmmu_val.yaml\ntask: mine\n")
    config = utils.load_yaml_config(str(file))
    assert (config["task"], config["test_split"]) == ("mine", "validation")
    assert config["process_results"].__name__ == "mmmu_process_results"
    own = tmp_path / "lmms_eval" / "tasks" / "mmmu" / "mmmu_val.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("test_split: own\n")
    assert utils.load_yaml_config(str(file))["test_split"] == "own"
    file.write_text("include: lmms_eval/tasks/mmmu/no_such.yaml\n")
    with pytest.raises(FileNotFoundError, match="no_such"):
        utils.load_yaml_config(str(file))


def test_an_error_passes_an_except_and_is_itself_outside():
    error = ValueError("no")

    def generate(**arguments):
        raise error

    def harness():
        try:
            escaping(generate)(x=1)
        except Exception:
            return ""

    with pytest.raises(ValueError, match="no") as caught, brought_back():
        harness()
    assert caught.value is error


def test_what_succeeds_is_given_through():
    with brought_back():
        assert escaping(lambda **arguments: arguments)(x=1) == {"x": 1}


SCORERS = """
import importlib
import lmms_eval.models  # our entry point mends latex2sympy2
from lmms_eval.tasks._task_utils.reasoning_utils import compute_score

for suite in (
    "mathverse mathvision mathvista dynamath wemath logicvista mmmu mmmu_pro vstar_bench"
).split():
    importlib.import_module(f"lmms_eval.tasks.{suite}.reasoning.utils")
for suite in "hrbench videommmu mmvu mlvu video_holmes mathvision mathvista mathverse".split():
    importlib.import_module(f"lmms_eval.tasks.{suite}.utils")

for source in ("mathvista", "dynamath", "wemath", "mmmu_val", "vstar_bench"):
    right, wrong = (
        compute_score(
            data_source=source,
            solution_str=f"<analysis>so</analysis> <answer>\\\\boxed{{{x}}}</answer>",
            ground_truth="B",
            extra_info={"question": "Which?"},
        )["acc_score"]
        for x in "BC"
    )
    assert right > wrong, source

from lmms_eval.tasks.mathvision.eval_utils import is_equal
assert is_equal("\\\\frac{1}{2}", "0.5") and not is_equal("\\\\frac{1}{2}", "0.6")
from lmms_eval.tasks.mlvu.utils import extract_characters_regex
assert extract_characters_regex("The best answer is: (B)") == "B"
from lmms_eval.tasks.video_holmes.utils import video_holmes_process_results
doc = {"Options": {"A": "yes", "B": "no"}, "Answer": "B", "Question Type": "SR"}
scored = [video_holmes_process_results(doc, [x])["video_holmes_accuracy"]["score"] for x in "BA"]
assert scored == [1, 0]
from lmms_eval.tasks.mmmu.utils import parse_multi_choice_response
assert parse_multi_choice_response("Answer: (C)", list("ABCD"), dict(zip("ABCD", "wxyz"))) == "C"
print("all scorers ran")
"""


def test_every_scorer_of_the_papers_suites_imports_and_tells_right_from_wrong(tmp_path):
    environment = {**os.environ, "OPENAI_API_KEY": "none", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCORERS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "all scorers ran" in ended.stdout, ended.stderr[-2000:]


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_requests_that_an_earlier_run_has_kept_are_not_unpickled(tmp_path, monkeypatch):
    """Upstream does it in each run, also where nobody asked for it."""
    from lmms_eval.api import task
    from lmms_eval.caching import cache

    source = inspect.getsource(inspect.unwrap(task.Task.build_all_requests))
    assert "cached_instances = load_from_cache(file_name=cache_key)" in source
    monkeypatch.setattr(cache, "PATH", str(tmp_path))
    patches.install()
    kept = tmp_path / f"requests{cache.FILE_SUFFIX}"
    kept.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with opened() as session:
        session.model = Replaying()
        assert task.load_from_cache(file_name="requests") is None
        task.save_to_cache(file_name="more", obj=[])
    assert list(tmp_path.iterdir()) == [kept]
    task.load_from_cache(file_name="requests")  # for another model, upstream does as ever
    assert (tmp_path / "ran").exists()
