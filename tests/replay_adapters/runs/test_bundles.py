"""Bundles of written runs: names that lead elsewhere, secrets, and files of the same name."""

import json

import pytest

from replay_adapters.runs.submission import safe, submit
from replay_core import UsageError
from tests.replay_adapters.runs.test_compare import log, planted

SUMMARY = {"policy": "me/rl", "base": "me/base"}
A, B = planted(20, 3, 1)


def runs(folder, task="pictures"):
    return [
        log(folder / f"a-{task}", A, summary=SUMMARY, task=task),
        log(folder / f"b-{task}", B, method="replay", summary=SUMMARY, task=task),
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
        (".hidden", "hidden"),
        ("a/b", "a_b"),
        ("C:\\x", "C_x"),
        ("Qwen2.5-VL+x", "Qwen2.5-VL+x"),
        ("", "_"),
    ],
)
def test_a_name_is_one_part_of_a_path(name, told):
    assert safe(name) == told


@pytest.mark.parametrize("name", ["../../../outside", "/outside", "..", "a\nb"])
def test_no_name_leads_out_of_the_bundle(tmp_path, name):
    folders = runs(tmp_path / "runs")
    before = set(tmp_path.iterdir())
    output = tmp_path / "here" / "bundle"
    submit(folders, output, name=name)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "here"}
    assert list((tmp_path / "here").iterdir()) == [output]
    assert len(list((output / "lmms-eval").iterdir())) == 2


def test_a_token_does_not_leave_the_house(tmp_path):
    folders = runs(tmp_path)
    (path,) = folders[1].rglob("*_results.json")
    content = json.loads(path.read_text())
    content["config"]["hf_hub_log_args"] = "hub_results_org=me,token=hf_abcdef,public_repo=True"
    content["config"]["gen_kwargs"] = "max_new_tokens=16"
    content["config"]["model_args"] = "pretrained=me/rl,api_key=sk-abcdef"
    path.write_text(json.dumps(content))
    output = tmp_path / "bundle"
    made = submit(folders, output)
    texts = [p.read_text(encoding="utf-8") for p in output.rglob("*") if p.is_file()]
    assert not any("abcdef" in text for text in texts)
    (removed,) = made.removed
    told = (output / removed).read_text()
    assert "hub_results_org=me,token=REMOVED,public_repo=True" in told
    assert "max_new_tokens=16" in told
    assert f"taken out of {removed}" in (output / "README.md").read_text(encoding="utf-8")


def test_results_of_two_commands_with_one_name_are_both_kept(tmp_path):
    folders = runs(tmp_path / "x") + runs(tmp_path / "x", "films")
    names = {path.name for folder in folders for path in folder.rglob("*_results.json")}
    assert len(names) == 1  # made in the same second
    submit(folders, tmp_path / "bundle")
    kept = sorted((tmp_path / "bundle" / "lmms-eval" / "rl-Replay").rglob("*_results.json"))
    tasks = [set(json.loads(path.read_text())["results"]) for path in kept]
    assert sorted(map(sorted, tasks)) == [["films"], ["pictures"]]


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path):
    folders = runs(tmp_path)
    output = tmp_path / "bundle"
    output.mkdir()
    submit(folders, output)  # an empty one is taken
    page = (output / "README.md").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        submit(folders, output)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        submit(folders, tmp_path / "file")
    assert (output / "README.md").read_bytes() == page


def test_runs_of_two_policies_are_refused(tmp_path):
    more = runs(tmp_path, "films")
    for folder in more:
        (path,) = folder.rglob("*_results.json")
        path.write_text(path.read_text().replace("me/rl", "me/other"))
    with pytest.raises(UsageError, match="of several policies: me/other, me/rl"):
        submit([*runs(tmp_path), *more], tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
