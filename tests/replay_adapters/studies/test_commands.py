"""Every study once, on the embedded pair through the harness, judged by what it writes."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from replay_adapters import console
from replay_adapters.cli import app
from replay_adapters.runs.samples import read_samples
from replay_core import UsageError
from replay_core.studies.grid import GridResult
from replay_core.studies.report import read_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(autouse=True)
def _as_found(monkeypatch):
    """Leave the process's logs alone."""
    monkeypatch.setattr(console, "quiet_logs", lambda: None)


def ask(*arguments: str, output: Path) -> str:
    words = [*arguments, "--output", str(output)]
    ended = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def written(folder: Path, study: str) -> dict:
    assert (folder / f"{study}.png").stat().st_size > 5000
    content = json.loads((folder / f"{study}.json").read_text())
    assert content["settings"]["policy_revision"].startswith("sha256:")
    assert content["settings"]["processor_revision"] == content["settings"]["policy_revision"]
    assert len(content["configuration_hash"]) == 12
    assert set(content["versions"]) >= {"activation-replay", "torch", "transformers"}
    with (folder / f"{study}.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(content["table"])
    return content


def test_drift(folder):
    told = ask("drift", "--n", "6", output=folder)
    content = written(folder, "drift")
    assert "weight noise" in told
    assert {row["arm"] for row in content["table"]} == {"policy", "weight noise"}
    layers = len({row["layer"] for row in content["table"]})
    assert len(content["table"]) == 2 * layers * 2 * 5
    assert sum(row["count"] for row in content["table"] if row["positions"] == "visual") == (
        2 * layers * 6 * 16
    )


def test_a_policy_that_is_its_own_base_does_not_drift(folder, tmp_path):
    from replay_adapters.settings.pairs import read_pair

    base = read_pair("demo").base
    pair = tmp_path / "self.yaml"
    own = read_pair("demo").model_dump(mode="json", exclude_none=True)
    pair.write_text(json.dumps({**own, "policy": base, "name": "self"}))
    ask("drift", "--pair", str(pair), "--n", "4", "--quantiles", "10", output=tmp_path)
    rows = written(tmp_path, "drift")["table"]
    assert all(row["kl"] in (0, None) for row in rows if row["count"])
    assert all(row["top1_agreement"] == 1 for row in rows if row["count"])


def test_perturbation(folder):
    words = ["--n", "3", "--sigmas", "0,0.5,1,2", "--draws", "1", "--samples", "4"]
    ask("perturbation", *words, output=folder)
    content = written(folder, "perturbation")
    assert [row["sigma"] for row in content["table"]] == [0, 0.5, 1, 2]
    assert content["findings"]["right"]["low"]["n"] <= 3


def test_intervention(folder):
    words = ["--n", "6", "--positions", "visual", "--boundaries", "aligned"]
    ask("intervention", *words, output=folder)
    content = written(folder, "intervention")
    rows = {row["arm"]: row for row in content["table"]}
    assert rows["aligned visual all"]["masked"] == 1
    assert rows["aligned visual low"]["outcomes"].startswith("applied")
    low, high = (rows[f"aligned visual matched_{end}"]["masked"] for end in ("low", "high"))
    assert low == pytest.approx(high)


def test_controls_and_resume(folder, monkeypatch):
    words = ["controls", "--n", "4", "--votes", "3", "--model-args", "replay_steps=2"]
    ask(*words, output=folder)
    first = written(folder, "controls")
    rows = {row["arm"]: row for row in first["table"]}
    assert rows["zero steps"]["difference"] == 0
    assert rows["zero steps"]["outcomes"] == "no_effect:4"
    assert rows["self-pair, aligned"]["outcomes"] == "no_drift:4"
    assert rows["self-pair, reference"]["loss_before"] > 0
    assert rows["shuffled base"]["loss_before"] > rows["replay"]["loss_before"]
    assert "self-consistency, 3 votes" in rows
    kept = sorted(folder.glob("answers.*.jsonl"), key=lambda path: path.stat().st_mtime)[-1]
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:-5]) + "\n" + lines[-5][:40])  # as a kill leaves it
    from replay_core.studies import answers as answering

    answered = []
    original = answering.Answerer.answers
    monkeypatch.setattr(
        answering.Answerer,
        "answers",
        lambda self, chunk, repeats: answered.append(chunk) or original(self, chunk, repeats),
    )
    ask(*words, output=folder)
    assert 0 < len(answered) <= 2
    again = json.loads((folder / "controls.json").read_text())
    for old, new in zip(first["table"], again["table"], strict=True):
        assert (old["arm"], old["score"], old["outcomes"]) == (
            new["arm"],
            new["score"],
            new["outcomes"],
        )


def test_grid(folder):
    words = ["--gammas", "0.2,0.4", "--alphas", "10,300", "--held-out", "4"]
    own = "replay_steps=3,replay_step_size=300"
    ask("grid", "--n", "4", *words, "--model-args", own, output=folder)
    content = written(folder, "grid")
    cells = content["findings"]["cells"]
    assert set(cells) >= {"γ=0.2 α=10", "γ=0.4 α=300", "fixed as γ=0.2 α=300"}
    curve = content["findings"]["curves"]["γ=0.4 α=300"]
    assert len(curve) == 4
    assert curve[-1] < curve[0]
    gentle = content["findings"]["curves"]["γ=0.4 α=10"]
    assert curve[-1] < gentle[-1]
    # The fixed thresholds are those of the command of that name, on the same documents.
    words = ["thresholds", "--task", "replay_demo_dev", "--n", "4", "--offset", "4"]
    told = ask(*words, "--model-args", f"{own},replay_threshold=0.2", output=folder)
    found = json.loads((folder / "thresholds.json").read_text())["thresholds"]
    assert content["findings"]["thresholds"]["0.2"] == found
    assert "the mean of γ·max entropy, n = 4" in told
    assert content["findings"]["fixed_thresholds_from"] == (
        "the mean of γ·max entropy over 4 held-out documents"
    )
    doubled = content["findings"]["thresholds"]["0.4"]
    assert doubled == pytest.approx({layer: 2 * nats for layer, nats in found.items()})
    best = read_result(folder, "grid", GridResult).best
    assert best.difference == max(cells[c]["difference"] for c in cells if c[0] == "γ")


def test_passk_from_arms_and_from_logs(folder):
    steps = ["--model-args", "replay_steps=2"]
    ask("passk", "--n", "3", "--samples", "4", *steps, output=folder)
    content = written(folder, "passk")
    assert {row["k"] for row in content["table"]} == {1, 2, 3, 4}
    assert {row["arm"] for row in content["table"]} == {
        "base",
        "policy",
        "policy + replay",
        "policy + inject",
    }
    plain = folder / "plain.jsonl"
    rows = [{"document": d, "repeat": r, "correct": float(d == r)} for d in (0, 1) for r in (0, 1)]
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = folder / "adapter.jsonl"
    lines = [{"index": d, "predictions": ["a", "b"], "scores": [1.0, 1.0]} for d in (0, 1)]
    adapter.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = ask("passk", f"plain={plain}", f"adapter={adapter}", output=folder / "logs")
    assert "@1 0.500" in told
    assert "@2 1.000" in told


def test_lmms_evals_samples_are_scored_one_by_one(tmp_path):
    """Also where the task itself asks eight times and scores the list."""
    right = "<answer>{}</answer>"
    for task in ("replay_demo", "replay_demo_passk"):
        from replay_adapters.lmms_eval.questions import Questions

        questions = Questions(task, "qwen2_vl_replay")
        documents = questions.documents(2)
        rows = [
            {
                "doc_id": d,
                "resps": [right.format(questions.question(d).target), "?", right.format("no way")],
            }
            for d in documents
        ]
        path = tmp_path / f"2026_samples_{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert read_samples(path) == {0: [1, 0, 0], 1: [1, 0, 0]}


def test_overlay(folder):
    steps = ["--model-args", "replay_steps=2"]
    ask("overlay", "--documents", "2,0", "--n", "3", *steps, output=folder)
    for document in (0, 2):
        assert (folder / f"overlay_{document}.png").stat().st_size > 20_000
    table = json.loads((folder / "overlay.json").read_text())["table"]
    assert [row["document"] for row in table] == [2, 0]
    assert all(0 < row["masked"] <= 1 and row["delta_norm"] >= 0 for row in table)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["drift", "--model", "gpt"], "--model gpt is not allowed"),
        (["drift", "--pair", "demon"], "did you mean 'demo'"),
        (["drift", "--task", "mmmu_val"], "cannot be answered by the embedded pair"),
        (["drift", "--model-args", "replay_method=inject"], "sets the method of its arms itself"),
        (["drift", "--model-args", "oops"], "not a list of name=value"),
        (["grid", "--gammas", "a,b"], "--gammas a,b is not a list of numbers"),
        (["intervention", "--positions", "nose"], "--positions nose is not allowed"),
        (["passk", "results"], "is not NAME=FOLDER_OR_FILE"),
        (["passk", "a=/nowhere"], "holds no JSON lines"),
        (["compare", "/nowhere", "/nowhere"], "does not exist"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(words, told):
    with pytest.raises(UsageError, match=told):
        CliRunner().invoke(app, words, catch_exceptions=False)
