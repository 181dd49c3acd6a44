"""DeepEyes' tasks: what they take from lmms-eval, and how their answers are scored."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from lmms_eval.utils import load_yaml_config
from PIL import Image

from replay_adapters.agents.asking import asking, last_answer
from replay_adapters.agents.boxes import Limits
from replay_adapters.session.session import Replaying, Session, opened
from replay_adapters.settings.options import resolve
from replay_adapters.settings.pairs import read_pair
from replay_adapters.settings.resources import resource
from replay_core import UsageError
from tests.support.judge import listening

FOLDER = resource("tasks") / "deepeyes"
spec = importlib.util.spec_from_file_location("deepeyes_task", FOLDER / "deepeyes.py")
task = importlib.util.module_from_spec(spec)
spec.loader.exec_module(task)
HARNESS = Path(importlib.util.find_spec("lmms_eval").submodule_search_locations[0]) / "tasks"
DIRECTLY = "\nAnswer with the option's letter from the given choices directly."


class Model(Replaying):
    """A model that is being evaluated, as far as a task asks it."""

    min_pixels, max_pixels = 3136, 50176

    def __init__(self, **options):
        self.settings = resolve({"replay_method": "none", **options})


def shared(config: dict) -> dict:
    """Return what of a task's config says which documents it has and how they are scored."""
    metrics = [
        (entry["metric"], getattr(entry["aggregation"], "__name__", entry["aggregation"]))
        for entry in config["metric_list"]
    ]
    names = ("dataset_path", "dataset_name", "test_split", "doc_to_target", "dataset_kwargs")
    return {"metrics": metrics, **{name: config.get(name) for name in names}}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("deepeyes_hrbench4k", "hrbench/hrbench4k.yaml"),
        ("deepeyes_hrbench8k", "hrbench/hrbench8k.yaml"),
        ("deepeyes_vstar", "vstar_bench/vstar_bench.yaml"),
    ],
)
def test_documents_and_metrics_are_lmms_evals_own(ours, theirs):
    mine = load_yaml_config(str(FOLDER / f"{ours}.yaml"))
    assert shared(mine) == shared(load_yaml_config(str(HARNESS / theirs)))
    assert mine["output_type"] == "generate_until_multi_round"


def test_every_task_decodes_as_the_pair_does():
    generation = read_pair("deepeyes_7b").protocol.generation
    for file in FOLDER.glob("*.yaml"):
        config = load_yaml_config(str(file))
        told = {name: config["generation_kwargs"][name] for name in generation}
        assert told == generation
        assert config["task"] == file.stem


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        (
            f"What is it?\n(A) red\n(B) dark blue\n(C) a (very) odd one{DIRECTLY}",
            "What is it?",
            {"A": "red", "B": "dark blue", "C": "a (very) odd one"},
        ),
        ("Left? (A) yes (B) no", "Left?", {"A": "yes", "B": "no"}),
        (f"No options{DIRECTLY}", "No options", {}),
    ],
)
def test_a_v_star_question_is_taken_apart(text, question, options):
    assert task.vstar_question(text) == (question, options)


@pytest.mark.parametrize(
    ("said", "answer", "score"),
    [
        ("<think>x</think><answer>The STOP sign!</answer>", "stop sign", 1),
        ("<answer>ＳＴＯＰ</answer>", "stop", 1),
        ("<answer>3</answer>", ["three", "3"], 1),
        ("<answer>A red car</answer>", "A blue car", 0),  # equal by their first capital letter
        ("<answer></answer>", "", 0),  # equal by having none
        ("<think>stop", "stop", 0),
        ("<answer>stops</answer>", "stop", 0),
    ],
)
def test_free_answers_are_compared_but_for_their_form(said, answer, score):
    doc = {"question": "?", "answer": answer}
    for results in ([["<tool_call>{}</tool_call>", said]], [said]):
        assert task.visualprobe_results(doc, results) == {"exact_match": float(score)}


def test_a_judge_is_asked_where_the_words_differ_only(monkeypatch):
    doc = {"question": "What is it?", "answer": ["a lorry", "a truck"]}
    verdicts = iter(["1", "0"])
    with listening(lambda text: next(verdicts)) as judge:
        for name, value in (("URL", judge.url), ("KEY", "none")):
            monkeypatch.setenv(f"OPENAI_API_{name}", value)
        for said, expected in (("Truck", 1), ("Big truck", 1), ("Car", 0), ("", 0)):
            scores = task.visualprobe_judged(doc, [[f"<answer>{said}</answer>"]])
            assert scores["llm_as_judge_eval"] == expected
            assert scores["exact_match"] == float(said == "Truck")
        assert len(judge.asked) == 2
        assert "a lorry or a truck" in str(judge.asked[0])


def test_other_names_of_visualprobes_fields_are_found_or_named():
    image = Image.new("RGB", (9, 9))
    doc = {"images": [image], "problem": "<image>\nWhat?", "solution": "x"}
    assert task.visualprobe_visuals(doc) == [image]
    assert task.visualprobe_question(doc) == "What?"
    assert task.visualprobe_target(doc) == ["x"]
    with pytest.raises(UsageError, match=r"none of answer, solution, response \(but text\)"):
        task.visualprobe_target({"text": ""})


def test_a_stock_model_is_asked_in_deepeyes_protocol():
    protocol, limits = asking()
    assert protocol == read_pair("deepeyes_7b").protocol
    assert limits == Limits(3136, 16384 * 28 * 28, "mapped")


def test_our_model_is_asked_in_its_pairs_protocol_pixels_and_boxes(tmp_path):
    shipped = yaml.safe_load((resource("configs") / "pairs" / "deepeyes_7b.yaml").read_text())
    for name in ("sources", "unknown"):
        shipped.pop(name, None)
    shipped["protocol"]["system_prompt"] = "Zoom."
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(shipped))
    model = Model(pair=str(tmp_path / "mine.yaml"), replay_boxes="published")
    with opened(Session(model)):
        protocol, limits = asking()
    assert protocol.system_prompt == "Zoom."
    assert limits == Limits(3136, 50176, "published")
    plain = Model(pretrained="some/policy", replay_base="some/base")
    with opened(Session(plain)):
        assert asking()[0] == read_pair("deepeyes_7b").protocol


def test_a_pair_whose_prompt_offers_no_tool_is_refused():
    with (
        opened(Session(Model(pair="mm_eureka_7b"))),
        pytest.raises(UsageError, match="the prompt of pair=mm_eureka_7b does not offer; take"),
    ):
        asking()


def test_options_of_conversations_change_the_fingerprint():
    prints = {
        resolve({"pair": "deepeyes_7b", **more}).fingerprint()
        for more in ({}, {"replay_turns": "reuse"}, {"replay_boxes": "published"})
    }
    assert len(prints) == 3
    with pytest.raises(UsageError, match=r"replay_turns=often .*allowed: again or reuse"):
        Model(pair="deepeyes_7b", replay_turns="often")


def test_the_last_texts_answer_counts():
    assert last_answer(["<answer>A</answer>", "<answer>(B) red</answer>"], "letter") == "B"
    assert last_answer([]) == ""
