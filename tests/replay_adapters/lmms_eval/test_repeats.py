"""Repeated requests come one after the other, in the same batches each time."""

from types import SimpleNamespace

import pytest

from replay_adapters.lmms_eval.repeats import in_groups


def request(document, settings, task="t"):
    return SimpleNamespace(
        task_name=task, doc_id=document, arguments=("context", settings, None, document, task)
    )


def test_requests_that_are_not_repeated_stay_together():
    asked = [request(n, {"max_new_tokens": 5}) for n in range(4)]
    assert in_groups(asked, 2, chat=False) == [[0, 1, 2, 3]]
    assert in_groups([], 2, chat=False) == []


def test_a_batch_is_asked_for_all_its_repeats_before_the_next():
    asked = [request(n, {}) for n in (7, 7, 7, 8, 8, 8, 9, 9, 9)]
    groups = in_groups(asked, 2, chat=False)
    assert groups == [[0, 3], [1, 4], [2, 5], [6], [7], [8]]
    assert [[asked[i].doc_id for i in group] for group in groups] == [[7, 8]] * 3 + [[9]] * 3


@pytest.mark.parametrize("chat", [False, True])
def test_other_settings_and_tasks_are_other_batches(chat):
    asked = [request(1, {"k": 1}), request(1, {"k": 1}), request(1, {"k": 2}, "u")]
    if chat:
        for one in asked:
            one.arguments = (one.arguments[0], None, *one.arguments[1:])
    assert in_groups(asked, 4, chat=chat) == [[0], [1], [2]]


def test_documents_of_fewer_repeats_drop_out():
    asked = [request(1, {}), request(1, {}), request(2, {})]
    assert in_groups(asked, 2, chat=False) == [[0, 2], [1]]
