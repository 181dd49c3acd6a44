"""Final answers in place of whole texts, request by request."""

from types import SimpleNamespace

import pytest
from lmms_eval.api.instance import GenerationResult, TokenCounts

from replay_adapters.lmms_eval.finals import Finals
from replay_adapters.session.session import Session
from replay_adapters.settings.answers import AnswerFormat
from replay_core import Outcome
from tests.replay_adapters.session.test_records import record

TAGGED = AnswerFormat(tag="answer", boxed=True)


def request(task, document):
    return SimpleNamespace(task_name=task, doc_id=document)


@pytest.fixture
def session():
    return Session()


@pytest.fixture
def book(session):
    return session.records


def test_repeats_and_results_get_their_own_answers(session, book):
    requests = [request("t", 0), request("t", 0), request("t", 1)]
    book.add("t", 0, record(Outcome.APPLIED))  # of an earlier call
    taken = Finals(session, requests, TAGGED)
    for document in (0, 0, 1):
        book.add("t", document, record(Outcome.APPLIED))
    counted = GenerationResult("<answer>C</answer>", TokenCounts(output_tokens=3))
    answers = taken.of(["<answer>A</answer>", "<think>B", counted])
    assert answers[:2] == ["A", ""]
    assert (answers[2].text, answers[2].token_counts.output_tokens) == ("C", 3)
    assert [one["answer"] for one in book.of("t", 0)] == [None, "A", ""]
    assert [one["response"] for one in book.of("t", 1)] == ["<answer>C</answer>"]


def test_a_text_that_was_cut_is_known_by_its_record(session, book):
    taken = Finals(session, [request("t", 0), request("t", 1)], TAGGED)
    book.add("t", 0, record(Outcome.APPLIED, truncated=True))
    book.add("t", 1, record(Outcome.APPLIED, truncated=False))
    assert taken.of(["A or B", "A or B"]) == ["", "A or B"]


def test_each_task_is_given_the_form_that_its_scorer_reads(session):
    session.scorers = {"mine": "dynamath.reasoning.utils.dynamath_process_results"}
    requests = [request(task, 0) for task in ("mmmu_pro_vision", "dynamath_reasoning", "other")]
    texts = ["<answer>(B) red</answer>"] * 4
    taken = Finals(session, [*requests, request("mine", 0)], TAGGED)
    assert taken.of(texts) == ["B", r"\boxed{B}", "(B) red", r"\boxed{B}"]


def test_without_marks_a_text_is_left_as_it_is(session, book):
    taken = Finals(session, [request("t", 0)], AnswerFormat())
    book.add("t", 0, record(Outcome.APPLIED))
    assert taken.of(["<answer>B</answer>"]) == ["<answer>B</answer>"]
    assert book.of("t", 0)[0]["answer"] is None
