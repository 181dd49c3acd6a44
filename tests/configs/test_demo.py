"""The embedded pairs: their training layout is the processor's, and they do what they are for."""

import csv
import json
import re
import subprocess
import sys
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from replay_adapters.settings.pairs import read_pair
from replay_core import ReplayConfig, Steered, load_pair
from tests.configs.scripts import FOLDER, TRAINING, load


@pytest.fixture(scope="module")
def scripts():
    return load(TRAINING)


@pytest.fixture(scope="module")
def processor(scripts):
    return scripts.checkpoint.build_processor()


@pytest.mark.parametrize("question_first", [False, True])
def test_training_prompts_and_pixels_are_the_real_processors(scripts, processor, question_first):
    scripts.checkpoint.check_inputs(processor, question_first)


@pytest.mark.parametrize("question_first", [False, True])
def test_packed_blocks_are_read_as_the_model_reads_each_alone(scripts, processor, question_first):
    """Log-probabilities of a packed batch against one plain forward per question and answer."""
    torch.manual_seed(0)
    task, checkpoint, train = scripts.checkpoint.task, scripts.checkpoint, scripts.train
    model = checkpoint.build_model(processor.tokenizer).eval()
    prompts = train.Prompts(processor, question_first)
    reader = scripts.packing.Reader(model, prompts.prefix, train.PATCH_GRID)
    rng = np.random.default_rng(1)
    scenes = task.sample_scenes(rng, 2, task.TRAIN_FOLDS)
    images = task.render(scenes, rng)
    kinds = ("count_shape", "colour_at", "more_than")
    shared, blocks, leads, expected = [], [], [], []
    for contents, image in zip(scenes.contents, images, strict=True):
        row = []
        for kind in kinds:
            question = task.ask(rng, contents, kind)
            head, tail, lead = prompts.parts(question.text)
            answer = prompts.answer(*task.conclude(kind, question.evidence))
            row.append(scripts.packing.Block(tail + answer, len(tail)))
            shared.append(head)
            leads.append(lead)
            text = processor.apply_chat_template(
                checkpoint.harness_messages(None, question.text, question_first),
                tokenize=False,
                add_generation_prompt=True,
            )
            real = processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt")
            ids = torch.cat([real["input_ids"], torch.tensor([answer])], 1)
            real |= {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "mm_token_type_ids": (ids == model.config.image_token_id).int(),
            }
            with torch.no_grad():
                log_p = model(**real).logits[0].log_softmax(-1)
            at = range(ids.shape[1] - len(answer) - 1, ids.shape[1] - 1)
            expected += [log_p[i, token] for i, token in zip(at, answer, strict=True)]
        blocks.append(row)
    if question_first:
        blocks = [[block] for block in chain(*blocks)]
    else:
        shared, leads = shared[:: len(kinds)], leads[:: len(kinds)]
    packed = scripts.packing.pack(shared, blocks, prompts.pad_id, leads)
    with torch.no_grad():
        hidden = reader.hidden(packed, checkpoint.patchify(images, processor))
        ours = reader.target_log_probs(packed, hidden[-1])
    torch.testing.assert_close(ours, torch.stack(expected), atol=2e-5, rtol=1e-5)


def test_the_sampler_answers_as_generate_does(scripts):
    """Greedy answers of the training's sampler against transformers' own, on the shipped base."""
    file = read_pair("demo")
    docs = scripts.measure.split_docs("dev")[:20]
    pair = load_pair(file.policy, file.base, dtype=torch.float32)
    processor = scripts.checkpoint.build_processor()
    prompts = scripts.train.Prompts(processor)
    reader = scripts.packing.Reader(pair.policy.model, prompts.prefix, scripts.train.PATCH_GRID)
    pixels = scripts.checkpoint.patchify(
        np.stack([np.asarray(d["image"]) for d in docs]), processor
    )
    heads, tails, leads = zip(*(prompts.parts(doc["question"]) for doc in docs), strict=True)
    asked = [head + tail for head, tail in zip(heads, tails, strict=True)]
    ours = [
        processor.tokenizer.decode(ids[0], skip_special_tokens=True)
        for ids in reader.sample(asked, pixels, list(leads))
    ]
    theirs = scripts.measure.respond(pair, processor, docs, ReplayConfig(method="none"))
    assert ours == [row[0] for row in theirs]


def test_no_learning_rate_freezes_its_part_of_the_model(scripts, processor):
    model = scripts.checkpoint.build_model(processor.tokenizer)
    recipe = scripts.train.Recipe(text_lr=0.0, vision_lr=2e-3)
    (group,) = scripts.train.parameter_groups(model, recipe)
    assert group["lr"] == 2e-3
    trained = {id(p) for p in group["params"]}
    assert trained == {id(p) for p in model.model.visual.parameters()}
    assert not any(p.requires_grad for p in model.get_decoder().parameters())


def test_random_directions_keep_every_tokens_norm(scripts, processor):
    """The control that evaluate.py and search.py ask for, on the pair that replay changes most."""
    file = read_pair("demo_drifted")
    pair = load_pair(file.policy, file.base, dtype=torch.float32)
    (inputs,) = scripts.measure.batches(processor, scripts.measure.split_docs("dev")[:4])
    plain, random = (
        Steered(pair, ReplayConfig(**{**file.replay, "x": x})).optimise(inputs).delta
        for x in ("optimised", "random")
    )
    torch.testing.assert_close(random.norm(dim=-1), plain.norm(dim=-1))
    assert torch.cosine_similarity(random, plain, dim=-1).abs().max() < 0.99


def test_samples_are_drawn_with_the_settings_own_seed(scripts, processor):
    """Several answers to each document, one record each; another seed draws others."""
    file = read_pair("demo")
    pair = load_pair(file.policy, file.base, dtype=torch.float32)
    docs = scripts.measure.split_docs("dev")[:8]

    def drawn(seed):
        config, records = ReplayConfig(method="none", seed=seed), []
        answers = scripts.measure.respond(pair, processor, docs, config, k=4, records=records)
        assert [len(row) for row in answers] == [4] * 8
        assert len(records) == 32
        return answers

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    assert any(len(set(row)) > 1 for row in first)


def test_the_shipped_checkpoints_pass_loose_gates(scripts):
    """On 100 fresh scenes; the gates themselves need ten times as many."""
    docs = scripts.measure.fresh_docs(seed=424242, n=100)
    demo = scripts.evaluate.Measured("demo", docs, 0)
    base = demo.arm("base", method="base").mean()
    policy = demo.arm("policy", method="none").mean()
    assert 0.25 < base < 0.8
    assert policy > base
    entropy, _ = scripts.measure.base_lens(demo.pair, demo.processor, docs)
    share = [scripts.measure.selected_share(entropy, gamma) for gamma in (0.2, 0.7)]
    assert share[1] - share[0] > 0.15
    drifted = scripts.evaluate.Measured("demo_drifted", docs, 0)
    repaired = drifted.against_policy("replay")
    assert repaired.accuracy_a < policy
    assert repaired.fixed > repaired.broken
    narrow = scripts.evaluate.Measured("demo_narrow", docs, 0)
    repaired = narrow.against_policy("replay")
    assert base < repaired.accuracy_a < policy
    assert repaired.fixed > repaired.broken


def test_the_drifted_pair_goes_on_from_the_good_policy_and_all_fits_the_repository():
    demo, drifted = read_pair("demo"), read_pair("demo_drifted")
    assert drifted.base == demo.policy
    assert "destructive" in drifted.notes
    folders = [file.parent for file in FOLDER.glob("*/model.safetensors")]
    assert {folder.name for folder in folders} == {"base", "policy", "narrow", "drifted", "sft"}
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 16e6


def test_evaluate_reports_every_gate(tmp_path):
    output = tmp_path / "gates.json"
    command = [sys.executable, FOLDER / "evaluate.py", "--seed", "7", "--n", "20"]
    ended = subprocess.run(
        [*command, "--output", output], capture_output=True, text=True, check=False
    )
    found = json.loads(output.read_text())
    assert (found["seed"], found["n"]) == (7, 20)
    named = ["demo"] * 5 + ["demo_narrow"] * 3 + ["demo_drifted"] * 4
    assert [gate["pair"] for gate in found["gates"]] == named
    assert ended.returncode == (0 if all(gate["passed"] for gate in found["gates"]) else 1)
    for gate in found["gates"]:
        assert gate["what"] in ended.stdout


def test_search_adds_a_row_per_arm(tmp_path):
    table = tmp_path / "search.csv"
    command = [sys.executable, FOLDER / "search.py", "--policy", FOLDER / "drifted", "--n", "10"]
    command += ["--base", FOLDER / "policy"]
    command += ["--select", "all,low", "--step-size", "100", "--random", "--table", table]
    subprocess.run(command, capture_output=True, check=True)
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["select"]) for row in rows] == [
        ("replay", "all"),
        ("random x", "all"),
        ("replay", "low"),
        ("random x", "low"),
    ]
    assert {row["n"] for row in rows} == {"10"}


def train(folder, *arguments):
    """One short stage of the training script, with folders of its own."""
    command = [sys.executable, FOLDER / "train.py", *arguments, "--steps", "1"]
    command += ["--work", folder / "work", "--logs", folder / "logs"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def moved(folder, name):
    """Which parts of a trained checkpoint differ from the exported base: text, vision."""
    loaded = load_pair(folder / "work" / name, FOLDER / "base", dtype=torch.float32)
    policy, base = (dict(side.model.named_parameters()) for side in (loaded.policy, loaded.base))
    different = {key for key, weight in policy.items() if not torch.equal(weight, base[key])}
    return {"vision" if "visual" in key else "text" for key in different}


def test_a_policy_and_its_twin_start_from_the_exported_base(tmp_path):
    """One update each, really run: both parts move, from the same weights."""
    before = set()
    for stage, name in (("rl", "demo-seed3"), ("sft", "demo-sft-seed3")):
        ended = train(tmp_path, stage, "--recipe", "demo", "--seed", "3")
        assert ended.returncode == 0, ended.stderr
        assert moved(tmp_path, name) == {"text", "vision"}
        log = (tmp_path / "logs" / f"{name}.log").read_text()
        before.add(re.search(r"step    0  (dev .*)", log)[1])
        assert "step    1" in log
    assert len(before) == 1


def test_a_stage_whose_start_is_missing_is_refused(tmp_path):
    ended = train(tmp_path, "rl", "--recipe", "question-first")
    assert ended.returncode == 1
    assert "train 'base-question-first' first" in ended.stderr


def test_answers_about_paths_are_read_off_the_grid(scripts):
    """The question's own words are parsed and the cells counted, apart from the code that asks."""
    task, paths = scripts.checkpoint.task, scripts.paths
    rng = np.random.default_rng(5)
    scenes = task.sample_scenes(rng, 200, task.TRAIN_FOLDS)
    seen = set()
    for contents in scenes.contents:
        question = paths.ask(rng, contents, paths.KIND)
        wanted = question.text.removeprefix("How many ").split(" at ")[0]
        numbers = [int(word) - 1 for word in question.text.rstrip("?").split() if word.isdigit()]
        cells = list(zip(numbers[::2], numbers[1::2], strict=True))
        steps = [abs(a - c) + abs(b - d) for (a, b), (c, d) in pairwise(cells)]
        assert steps == [1] * (paths.CELLS - 1)
        names = [task.content_name(int(contents[cell])) for cell in cells]
        assert question.answer == str(sum(wanted in name.split() for name in names))
        thought, _ = paths.conclude(question, question.evidence)
        assert thought == ",".join(name.replace(" ", "") or "empty" for name in names)
        seen.add(question.answer)
    assert {"0", "1", "2"} <= seen


def test_paths_of_the_two_splits_share_no_grid(scripts):
    dev, test = (scripts.paths.docs(1, 50, fold) for fold in (1, 0))
    assert {d["image"].tobytes() for d in dev}.isdisjoint(d["image"].tobytes() for d in test)
    assert {doc["question_type"] for doc in dev + test} == {scripts.paths.KIND}
