"""One sample's record."""

import json
from importlib.metadata import version

import pytest
import torch
from pydantic import ValidationError

from replay_core import ReplayRecord, ReplayResult, SampleReplay, Steered
from replay_core.answer import records_of
from replay_core.outcome import Outcome
from replay_core.record import SCHEMA_VERSION, Seconds, answer_fields, lasting, make_record
from tests.replay_core.helpers import Loaded, masks_of, owner_of, rows_of, stable
from tests.support import oracle


@pytest.fixture
def made(one16: Loaded) -> tuple[Steered, ReplayResult, tuple[ReplayRecord, ...]]:
    steered = Steered(one16.pair, stable(steps=3, seed=5))
    result = steered.optimise(one16.batch("mixed"))
    fields = [{"new_tokens": n, "finish_reason": "stop", "truncated": False} for n in range(3)]
    return steered, result, records_of(steered, result, answers=fields, decode_seconds=6.0)


def test_a_record_names_pair_settings_and_versions(one16: Loaded, made) -> None:
    steered, _, records = made
    for record in records:
        assert record.schema_version == SCHEMA_VERSION
        assert record.pair == one16.pair.name
        assert record.policy_revision == one16.pair.policy_revision
        assert record.base_revision == one16.pair.base_revision
        assert record.policy_revision != record.base_revision
        assert record.config_hash == steered.config.fingerprint()
        assert record.versions["torch"] == torch.__version__
        assert record.versions["activation-replay"] == version("activation-replay")
        assert record.versions.keys() == {"activation-replay", "torch", "transformers"}


def test_a_record_tells_its_own_samples_replay(one16: Loaded, made) -> None:
    steered, result, records = made
    assert [r.outcome for r in records] == ["applied", "no_visual_tokens", "applied"]
    assert [r.visual_tokens for r in records] == [12, 0, 23]
    assert [r.new_tokens for r in records] == [0, 1, 2]
    assert [r.steps for r in records] == [3, 0, 3]
    inputs = one16.batch("mixed")
    masks = masks_of(steered.targets(inputs), owner_of(inputs))
    for row in (0, 2):
        record, x = records[row], rows_of(result)[row]
        features = oracle.oracle_features(one16.policy, one16.singles("mixed")[row])
        edited = (features.float() + x).bfloat16()
        assert record.loss_before == result.samples[row].losses[0]
        assert record.loss_after == result.samples[row].losses[-1]
        assert record.changed_fraction == pytest.approx(float((edited != features).float().mean()))
        assert 0 < record.changed_fraction < 1
        assert record.delta_norm == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-4)
        assert record.feature_norm == pytest.approx(
            float(features.float().norm(dim=1).mean()), rel=1e-2
        )
        assert record.masked_fraction == {
            layer: pytest.approx(float(mask.float().mean())) for layer, mask in masks[row].items()
        }
    assert records[1].loss_before is records[1].loss_after is None


def test_a_batchs_time_is_shared_out(made) -> None:
    _, result, records = made
    assert result.seconds.base > 0
    assert result.seconds.loop > 0
    for record in records:
        assert record.batch_size == 3
        assert record.seconds.base == pytest.approx(result.seconds.base / 3)
        assert record.seconds.loop == pytest.approx(result.seconds.loop / 3)
        assert record.seconds.decode == 2.0


def test_a_record_survives_json(made) -> None:
    for record in made[2]:
        text = record.model_dump_json()
        assert ReplayRecord.model_validate_json(text) == record
        assert json.loads(text)["outcome"] == str(record.outcome)


def test_a_loss_that_is_not_finite_is_left_out(one: Loaded) -> None:
    for loss in (float("nan"), float("inf"), -float("inf")):
        sample = SampleReplay(Outcome.NON_FINITE, 4, losses=(loss,), loss_after=loss)
        record = make_record(one.pair, stable(), sample)
        assert record.loss_before is record.loss_after is None
    sample = SampleReplay(Outcome.NO_DRIFT, 4, losses=(0.0,), loss_after=0.0)
    assert make_record(one.pair, stable(), sample).loss_before == 0.0


def test_a_record_keeps_what_was_measured_beside_it(one: Loaded) -> None:
    off = SampleReplay(Outcome.OFF)
    more = {"seconds": Seconds(decode=1.5), "error": "why", "seed": 3, "peak_memory_mb": 2.0}
    record = make_record(one.pair, stable(method="none"), off, **more)
    assert (record.method, record.outcome, record.steps) == ("none", "off", 0)
    assert (record.seconds.decode, record.error, record.seed) == (1.5, "why", 3)
    assert record.peak_memory_mb == 2.0


def test_records_of_an_arm_without_replay(one: Loaded) -> None:
    steered = Steered(one.pair, stable(method="base"))
    (record,) = records_of(steered, steered.optimise(one.batch("one_image")))
    assert (record.method, record.outcome, record.batch_size) == ("base", "off", 1)


def test_answers_must_be_as_many_as_samples(one: Loaded) -> None:
    steered = Steered(one.pair, stable(method="none"))
    with pytest.raises(ValueError, match="argument"):
        records_of(steered, steered.optimise(one.batch("mixed")), answers=[{}])


def test_a_record_cannot_be_changed(made) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        made[2][0].outcome = Outcome.OFF


def test_why_an_answer_ended() -> None:
    eos, pad = 7, 0
    ids = torch.tensor([[1, 2, eos, pad], [1, 2, 3, eos], [1, 2, 3, 4], [eos, pad, pad, pad]])
    fields = answer_fields(ids, {eos, 8}, 4)
    assert [f["new_tokens"] for f in fields] == [2, 3, 4, 0]
    assert [f["finish_reason"] for f in fields] == ["stop", "stop", "length", "stop"]
    assert [f["truncated"] for f in fields] == [False, False, True, False]
    ended_otherwise = answer_fields(torch.tensor([[1, 2]]), {eos}, 4)
    assert ended_otherwise == [{"new_tokens": 2, "finish_reason": "stop", "truncated": False}]


def test_only_what_depends_on_the_moment_does_not_last(made) -> None:
    record = made[2][0]
    passing = {"out_of_memory", "failed", "unreadable_input"}
    for outcome in Outcome:
        told = record.model_copy(update={"outcome": outcome}).model_dump(mode="json")
        assert lasting(told) == (outcome.value not in passing)
        assert not lasting({**told, "error": "the disk was gone"})
    assert lasting({"document": 3, "cells": [1.0]})
