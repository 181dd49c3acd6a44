"""Rows outlive a kill, and never serve other settings."""

import csv
import json

import numpy as np
import pytest

from replay_core import UsageError
from replay_core.studies.report import Rows, write_study

KEY = ("arm", "document")


def test_rows_are_there_again_and_a_cut_line_is_not(tmp_path):
    rows = Rows(tmp_path, "drift", {"pair": "a"}, KEY)
    rows.add([{"arm": "x", "document": 1, "cells": np.arange(3)}])
    rows.add([{"arm": "x", "document": 2, "cells": np.zeros(2)}])
    with rows.path.open("a") as file:
        file.write('{"arm": "x", "docu')
    again = Rows(tmp_path, "drift", {"pair": "a"}, KEY)
    assert len(again) == 2
    assert ("x", 2) in again
    assert ("x", 3) not in again
    again.add([{"arm": "x", "document": 3}])
    assert [row["document"] for row in Rows(tmp_path, "drift", {"pair": "a"}, KEY)] == [1, 2, 3]
    assert next(iter(again))["cells"] == [0, 1, 2]


def test_other_settings_or_versions_have_rows_of_their_own(tmp_path, monkeypatch):
    Rows(tmp_path, "drift", {"pair": "a"}, KEY).add([{"arm": "x", "document": 1}])
    assert len(Rows(tmp_path, "drift", {"pair": "b"}, KEY)) == 0
    monkeypatch.setattr(
        "replay_core.studies.report.library_versions", lambda: {"activation-replay": "9"}
    )
    assert len(Rows(tmp_path, "drift", {"pair": "a"}, KEY)) == 0


def test_a_row_is_never_measured_twice(tmp_path):
    rows = Rows(tmp_path, "drift", {}, KEY)
    rows.add([{"arm": "x", "document": 1, "kl": 1.0}])
    rows.add([{"arm": "x", "document": 1, "kl": 2.0}])
    assert [row["kl"] for row in rows] == [1.0]
    assert rows.path.read_text().count("\n") == 1


def test_a_row_that_depended_on_the_moment_is_measured_again(tmp_path):
    rows = Rows(tmp_path, "answers", {}, KEY)
    lost = {"arm": "x", "document": 1, "outcome": "out_of_memory", "correct": 0.0}
    rows.add([lost, {"arm": "x", "document": 2, "outcome": "applied", "correct": 0.0}])
    assert ("x", 1) in rows  # in this run it stands
    again = Rows(tmp_path, "answers", {}, KEY)
    assert [row["document"] for row in again] == [2]
    again.add([{**lost, "outcome": "applied", "correct": 1.0}])
    found = {row["document"]: row["correct"] for row in Rows(tmp_path, "answers", {}, KEY)}
    assert found == {1: 1.0, 2: 0.0}


def test_a_spoilt_file_is_named(tmp_path):
    rows = Rows(tmp_path, "drift", {}, KEY)
    rows.add([{"arm": "x", "document": 1}])
    rows.path.write_text("nonsense\n" + rows.path.read_text())
    with pytest.raises(UsageError, match="line 1 is not a row"):
        Rows(tmp_path, "drift", {}, KEY)


def test_a_study_says_how_it_was_made(tmp_path):
    write_study(
        tmp_path,
        "grid",
        settings={"pair": "a"},
        table=[{"arm": "x", "p": 0.123456789}, {"arm": "y", "q": None}],
        findings={"curve": np.array([1.0, np.nan])},
        seed=5,
    )
    content = json.loads((tmp_path / "grid.json").read_text())
    assert content["seed"] == 5
    assert content["findings"]["curve"] == [1.0, None]
    assert len(content["configuration_hash"]) == 12
    assert "activation-replay" in content["versions"]
    first, second = csv.DictReader((tmp_path / "grid.csv").open())
    assert (first["p"], second["p"], second["arm"]) == ("0.123457", "", "y")
