"""Answers that end at a stop string, alone and beside longer ones, in a model's own generate."""

import torch
from transformers import LogitsProcessorList

from replay_core import Steered
from replay_core.answer import answer
from tests.replay_core.helpers import Loaded, stable
from tests.support.scripted import Forced

STOP = "</tool_call>"


def written(one: Loaded, texts: list[str], limit: int, **more):
    """Let a model alone write ``texts``, one per row."""
    tokenizer = one.processor.tokenizer
    inputs = one.batch("mixed")
    rows = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    steered = Steered(one.pair, stable(method="none"))
    generation = {
        "max_new_tokens": limit,
        "do_sample": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "logits_processor": LogitsProcessorList([Forced(rows, inputs["input_ids"].shape[1])]),
        **more,
    }
    return answer(steered, inputs, generation), [len(row) - 1 for row in rows]


def test_a_short_rows_padding_is_none_of_its_tokens(one):
    tokenizer = one.processor.tokenizer
    samples = len(one.batch("mixed")["input_ids"])
    texts = [f"a{STOP} and so on", "b" * 40, f"cd{STOP}", *["e"] * (samples - 3)]
    how = {"stop_strings": [STOP], "tokenizer": tokenizer}
    made, lengths = written(one, texts, 60, **how)
    ends = [len(tokenizer(text.partition(STOP)[0] + STOP).input_ids) for text in texts]
    stopped = [STOP in text for text in texts]
    for record, row, end, length, at_stop in zip(
        made.records, made.new, ends, lengths, stopped, strict=True
    ):
        assert record.new_tokens == (end if at_stop else length)
        assert (record.finish_reason, record.truncated) == ("stop", False)
        said = tokenizer.decode(row, skip_special_tokens=True)
        assert said.endswith(STOP) == at_stop
        # What the harness counts behind an answer are end tokens, not padding.
        assert set(row[record.new_tokens :].tolist()) <= {
            tokenizer.eos_token_id,
            *([] if at_stop else [tokenizer.pad_token_id]),
        }


def test_a_stop_at_the_last_token_is_no_cut_and_without_stops_nothing_changes(one):
    tokenizer = one.processor.tokenizer
    samples = len(one.batch("mixed")["input_ids"])
    texts = [f"a{STOP}b", *["b" * 40] * (samples - 1)]
    limit = len(tokenizer(f"a{STOP}").input_ids)
    how = {"stop_strings": STOP, "tokenizer": tokenizer}
    first, *rest = written(one, texts, limit, **how)[0].records
    assert (first.new_tokens, first.finish_reason, first.truncated) == (limit, "stop", False)
    assert {(r.new_tokens, r.finish_reason) for r in rest} == {(limit, "length")}
    plain = written(one, texts, limit)[0].records[0]
    assert (plain.finish_reason, plain.truncated) == ("length", True)


def test_new_ids_keep_their_shape(one):
    samples = len(one.batch("mixed")["input_ids"])
    how = {"stop_strings": [STOP], "tokenizer": one.processor.tokenizer}
    made, _ = written(one, [f"a{STOP}"] * samples, 30, **how)
    assert isinstance(made.new, torch.Tensor)
    assert made.new.shape == (samples, len(one.processor.tokenizer(f"a{STOP}").input_ids))
