"""Which requests a class is given at once, and what the mixin sees of what it does with them."""

from types import SimpleNamespace

import pytest

from replay_adapters.lmms_eval.batches import Row, Rows, WatchedTasks, in_groups


def request(document, settings, task="t", *, clone=False):
    return SimpleNamespace(
        task_name=task,
        doc_id=document,
        arguments=("context", settings, None, document, task),
        metadata={"__padding_only__": clone},
    )


def test_documents_are_noted_in_the_order_of_looking_up():
    seen = []
    tasks = WatchedTasks({"a": {"test": ["x", "y"]}, "b": {"test": ["z"]}}, seen)
    assert [tasks["a"]["test"][1], tasks["b"]["test"][0]] == ["y", "z"]
    assert seen == [("a", 1), ("b", 0)]
    assert len(tasks) == 2


def test_rows_are_told_apart_by_document_and_repeat():
    seen = [("t", 1), ("t", 2), ("t", 1)]
    rows = Rows(seen, [request(1, {}), request(2, {}), request(1, {}), request(2, {}, clone=True)])
    assert rows.take(2) == [Row("t", 1, 0, True), Row("t", 2, 0, True)]
    seen.append(("t", 2))
    assert rows.take(2) == [Row("t", 1, 1, True), Row("t", 2, 1, False)]  # the last is a clone's
    with pytest.raises(RuntimeError, match="1 prompts came with 0 documents"):
        rows.take(1)


def test_of_a_multi_round_task_only_the_last_looked_up_are_answered():
    seen = [("t", 1), ("t", 7), ("t", 2)]
    rows = Rows(seen, None)
    assert rows.take(2) == [Row("t", 7, 0, True), Row("t", 2, 0, True)]
    assert seen == []


def test_requests_that_are_not_repeated_stay_together():
    asked = [request(n, {"max_new_tokens": 5}) for n in range(4)]
    assert in_groups(asked, 2, chat=False) == [[0, 1, 2, 3]]
    assert in_groups([], 2, chat=False) == []


def test_a_simple_class_never_mixes_tasks():
    """It would look up every document of a batch in the first one's task."""
    asked = [request(n, {}, task) for n, task in ((0, "t"), (0, "u"), (1, "t"), (1, "u"))]
    assert in_groups(asked, 4, chat=False) == [[0, 2], [1, 3]]
    assert in_groups(asked + asked, 4, chat=False) == [[0, 2], [4, 6], [1, 3], [5, 7]]
    for one in asked:
        one.arguments = (one.arguments[0], None, *one.arguments[1:])
    assert in_groups(asked, 4, chat=True) == [[0, 1, 2, 3]]


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
