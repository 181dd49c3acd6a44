"""What the mixin sees of a harness class, and what it brings back from one."""

import pytest

from replay_adapters.lmms_eval.batches import WatchedTasks, brought_back, escaping


def test_documents_are_noted_in_the_order_of_looking_up():
    seen = []
    tasks = WatchedTasks({"a": {"test": ["x", "y"]}, "b": {"test": ["z"]}}, seen)
    assert [tasks["a"]["test"][1], tasks["b"]["test"][0]] == ["y", "z"]
    assert seen == [("a", 1), ("b", 0)]
    assert len(tasks) == 2


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
