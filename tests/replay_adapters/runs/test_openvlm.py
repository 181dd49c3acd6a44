"""Predictions as sheets: nothing turns into something else, and what is cut is told."""

from dataclasses import replace

import pandas as pd
import pytest

from replay_adapters.runs.openvlm import CELL, model_entry, write_predictions
from replay_adapters.runs.run import Item, RunLog

ODD = ["=1+1", "None", "NA", "https://a.b/c", "  B ", "1.50", "{=A1}", "zwei\nZeilen", "+5", "nan"]


@pytest.fixture
def predicted(tmp_path):
    """Write predictions in one of the harness's formats; return their run."""

    def write(texts, suffix=".tsv"):
        table = pd.DataFrame({"index": [3, 1, *range(10, 8 + len(texts))], "prediction": texts})
        path = tmp_path / f"M_set{suffix}"
        if suffix == ".xlsx":
            table.map(lambda cell: cell[:CELL] if isinstance(cell, str) else cell).to_excel(
                path, index=False, engine="xlsxwriter"
            )
        elif suffix == ".json":
            table.to_json(path, orient="records")
        else:
            table.to_csv(path, sep="\t", index=False)
        items = {
            str(index): Item(1.0, answers=[text])
            for index, text in zip(table["index"], texts, strict=True)
        }
        return RunLog("VLMEvalKit", "set", "hit", path, items, {})

    return write


def read(path):
    return pd.read_excel(path, keep_default_na=False, dtype={"prediction": str})


@pytest.mark.parametrize("suffix", [".tsv", ".json"])
def test_every_text_stays_what_it_is(predicted, tmp_path, suffix):
    run = predicted(ODD, suffix)
    assert write_predictions(run, tmp_path / "x" / "N_set.xlsx") == []
    sheet = read(tmp_path / "x" / "N_set.xlsx")
    assert sheet["prediction"].tolist() == ODD
    assert sheet["index"].tolist() == [int(index) for index in run.items]


@pytest.mark.parametrize("suffix", [".tsv", ".json", ".xlsx"])
def test_what_a_cell_cannot_hold_is_cut_and_told(predicted, tmp_path, suffix):
    texts = ["A" * CELL, "B" * (CELL + 1), "C" * 40_000, "D"]
    (first, second) = write_predictions(predicted(texts, suffix), tmp_path / "N_set.xlsx")
    assert [(one.index, one.characters) for one in (first, second)] == [
        ("1", CELL + 1),
        ("10", 40_000),
    ]
    assert "N_set.xlsx, index 10: prediction has at least 40000 characters, of which" in str(second)
    assert read(tmp_path / "N_set.xlsx")["prediction"].tolist() == [text[:CELL] for text in texts]


def test_a_full_cell_without_a_journal_is_told(predicted, tmp_path):
    run = predicted(["A" * 100, "B" * CELL], ".xlsx")
    bare = replace(run, items={name: Item(1.0) for name in run.items})
    (told,) = write_predictions(bare, tmp_path / "N_set.xlsx")
    assert told.index == "1"
    assert write_predictions(run, tmp_path / "N_set.xlsx") == []


def test_a_model_whose_arguments_are_not_known_is_no_entry():
    given = {"pair": "demo", "replay_method": "replay", "system_prompt": 'Say "it"\nplainly'}
    text = model_entry({"One": given, "Two": {}}, "One (Replay)", ["policy: me/rl"])
    found: dict = {}
    exec(compile(text, "entry", "exec"), found)
    (entry,) = found["replay_series"].values()
    assert entry._given == given
    assert "# Two: its run does not say" in text
