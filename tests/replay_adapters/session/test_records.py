import pytest
from loguru import logger

from replay_adapters.session.records import RecordBook, report, totals
from replay_core import Outcome, ReplayRecord
from replay_core.record import Seconds


def record(outcome: Outcome, **fields) -> ReplayRecord:
    return ReplayRecord(
        pair="p",
        policy_revision="a",
        base_revision="b",
        config_hash="c",
        versions={},
        method="replay",
        outcome=outcome,
        **fields,
    )


def test_totals_count_outcomes_and_average_only_what_was_applied():
    rows = [
        record(
            Outcome.APPLIED,
            loss_before=1.0,
            loss_after=0.5,
            seconds=Seconds(base=1, loop=2, decode=3),
            masked_fraction={0: 0.2, 1: 0.4},
            new_tokens=4,
            truncated=False,
        ),
        record(
            Outcome.APPLIED,
            loss_before=3.0,
            loss_after=1.5,
            loss_peak=4.0,
            rose=True,
            new_tokens=6,
            truncated=True,
        ),
        record(Outcome.DIVERGED, loss_before=9.0, loss_after=99.0),
    ]
    total = totals(rows)
    assert total["n"] == 3
    assert total["outcomes"] == {"applied": 2, "diverged": 1}
    assert (total["loss_before"], total["loss_after"]) == (2.0, 1.0)
    assert total["seconds_per_sample"]["loop"] == pytest.approx(2 / 3)
    assert total["masked_fraction"] == pytest.approx(0.3)
    assert total["rose"] == 1
    assert total["no_answer"] == 0
    assert (total["new_tokens"], total["truncated"]) == (5, 0.5)
    assert totals([row.model_dump(mode="json") for row in rows]) == total


def told(rows) -> list[str]:
    """Return the warnings of the report."""
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    try:
        report(totals(rows))
    finally:
        logger.remove(sink)
    return lines


def test_totals_and_report_name_an_outcome_with_its_remedy():
    rows = [record(Outcome.EMPTY_MASK), record(Outcome.APPLIED), record(Outcome.EMPTY_MASK)]
    remedy = "raise replay_threshold, or take replay_select=all"
    assert totals(rows)["remedies"] == {"empty_mask": remedy}
    (line,) = told(rows)
    assert line.strip() == (
        "replay: empty_mask in 2 of 3: no base activation is below the threshold, so the plain "
        f"policy answered: {remedy}"
    )
    (line,) = told([record(Outcome.NO_DRIFT)])
    assert line.strip().endswith("so the plain policy answered")
    assert told([record(Outcome.OFF)]) == []


def test_the_report_warns_of_losses_that_rose_and_only_then():
    steady = record(Outcome.APPLIED, loss_before=2.0, loss_after=1.0)
    climbing = record(Outcome.APPLIED, loss_before=2.0, loss_after=1.0, loss_peak=3.0, rose=True)
    assert told([steady, steady]) == []
    (line,) = told([steady, climbing, climbing])
    assert "in 2 of 3 answers the loss rose" in line


def test_totals_of_nothing_are_none_not_zero():
    total = totals([])
    assert total["n"] == 0
    assert total["loss_before"] is None
    assert total["seconds_per_sample"]["loop"] is None


def test_records_are_kept_by_task_and_document_in_order():
    book = RecordBook()
    for seed, (task, document) in enumerate([("a", 1), ("b", 1), ("a", 1)]):
        book.add(task, document, record(Outcome.OFF, seed=seed))
    assert [row["seed"] for row in book.of("a", 1)] == [0, 2]
    assert book.of("a", 2) == []
    assert len(book.all()) == 3


def test_texts_without_an_answer_are_counted_and_told():
    rows = [
        record(Outcome.APPLIED, response="<think> B", answer=""),
        record(Outcome.APPLIED, response="\\boxed{B}", answer="B"),
        record(Outcome.APPLIED),  # nothing was taken out
    ]
    assert totals(rows)["no_answer"] == 1
    (line,) = told(rows)
    assert "no_answer in 1 of 3" in line
    assert told(rows[1:]) == []


def test_an_answer_is_noted_beside_its_text_where_the_model_was_asked():
    book = RecordBook()
    book.add("task", 3, record(Outcome.APPLIED, truncated=True))
    book.add("task", 3, record(Outcome.UNREADABLE_INPUT))
    assert [book.cut("task", 3, at) for at in range(3)] == [True, False, False]
    for at in range(3):
        book.took("task", 3, at, "so B", "B")
    first, second = book.of("task", 3)
    assert (first["response"], first["answer"]) == ("so B", "B")
    assert (second["response"], second["answer"]) == (None, None)
