"""Right answers are scored as right by scorers that use math_verify, and none of them hangs."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from lmms_eval.tasks.hrbench.hrbench_evals import HRBenchEval
from math_verify import parse

from replay_adapters.lmms_eval.scoring import no_option_is_wrong, scoring_threads
from replay_adapters.session.session import Session
from replay_core import UsageError
from tests.replay_adapters.conftest import TASKS
from tests.replay_adapters.lmms_eval.test_end_to_end import arguments

SEVEN_HALVES = r"\boxed{\frac{7}{2}}"


def test_a_run_is_scored_in_one_thread_where_a_scorer_has_loaded_math_verify(monkeypatch):
    assert [scoring_threads(asked) for asked in (1, 4, 16)] == [1, 1, 1]
    monkeypatch.delitem(sys.modules, "math_verify")
    assert [scoring_threads(asked) for asked in (1, 4, 16)] == [1, 4, 16]
    drawing = ["dynamath.reasoning.utils.x", "mmmu.utils.mmmu_process_results"]
    assert [scoring_threads(4, drawing[:n]) for n in (1, 2)] == [4, 1]


def test_an_evaluation_off_the_main_thread_is_refused():
    with ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="in the main thread only"):
        pool.submit(scoring_threads, 1).result()


def test_math_verify_still_fails_off_the_main_thread():
    """If it does not, ``scoring_threads`` can go."""
    assert parse(SEVEN_HALVES)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="threaded environment"):
        pool.submit(parse, SEVEN_HALVES).result()


@pytest.fixture(scope="module")
def scored(lmms_eval, tiny_pairs):
    """Answers with a person's verdicts, scored by the harness with its default of four threads."""
    given = arguments(tiny_pairs["qwen2_vl"], "replay_method=none")
    return lmms_eval("qwen2_vl_replay", given, "replay_test_maths")


def test_every_suite_scores_as_a_person_would(scored):
    assert scored.code == 0, scored.output
    documents = [json.loads(line) for line in (TASKS / "maths.jsonl").open()]
    suites = [m["metric"] for m in scored.results["configs"]["replay_test_maths"]["metric_list"]]
    assert len(suites) == 9
    for number, document in enumerate(documents):
        for suite in document["suites"] or suites:
            told = scored.samples[number][suite]
            assert told == float(document["right"]), (suite, document["scripted"])


def test_the_log_says_once_why_one_thread_scores(scored):
    assert scored.output.count("answers are scored in 1 thread, not 4") == 1
    assert "with 1 worker(s)" in scored.output


OPTIONS = {"A": "red", "B": "blue"}


@pytest.mark.parametrize(("said", "scored"), [("B", "B"), ("It is red", "A"), ("perhaps", "Z")])
def test_hrbench_without_a_judge_counts_no_option_as_wrong(said, scored, monkeypatch):
    monkeypatch.setattr(HRBenchEval, "_post_request", lambda *_: pytest.fail("asked without a key"))
    data = {"question": "?", "options": dict(OPTIONS), "prediction": said}
    original = HRBenchEval.get_chat_response
    judge = HRBenchEval("YOUR_API_KEY")
    told = no_option_is_wrong(Session(), original, judge, data)
    assert told["gpt_prediction"] == scored


@pytest.mark.parametrize(("verdict", "scored"), [("B", "B"), ("none of these", "Z"), (None, "Z")])
def test_hrbench_with_a_judge_that_names_no_option_counts_it_as_wrong(verdict, scored, monkeypatch):
    def post(*_):
        if verdict is None:
            raise OSError("no answer")
        return {"choices": [{"message": {"content": verdict}}]}

    monkeypatch.setattr(HRBenchEval, "_post_request", post)
    data = {"question": "?", "options": dict(OPTIONS), "prediction": "perhaps"}
    original = getattr(HRBenchEval.get_chat_response, "__wrapped__", HRBenchEval.get_chat_response)
    told = no_option_is_wrong(Session(), original, HRBenchEval("key"), data)
    assert told["gpt_prediction"] == scored


def test_hrbench_still_loses_such_an_answer_by_itself(monkeypatch):
    """If it does not, ``no_option_is_wrong`` can go."""
    monkeypatch.setattr(HRBenchEval, "_post_request", lambda *_: {"choices": []})
    original = getattr(HRBenchEval.get_chat_response, "__wrapped__", HRBenchEval.get_chat_response)
    data = {"question": "?", "options": dict(OPTIONS), "prediction": "perhaps"}
    assert "gpt_prediction" not in original(HRBenchEval("key"), data)
