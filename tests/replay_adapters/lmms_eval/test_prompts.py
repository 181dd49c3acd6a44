"""Every shipped protocol, character for character, as it reaches the tokenizer of the real classes.

``prompts.yaml`` holds the published strings; here stands, spelled out, where they belong in the
wire format of the Qwen models.
"""

import re
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from PIL import Image

from replay_adapters.lmms_eval import models
from replay_adapters.settings.pairs import read_pair
from replay_core import UsageError

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "prompts.yaml").read_text("utf-8"))
QUESTION = "How many?\nA. one\nB. two"
DEFAULT = "You are a helpful assistant."
VIDEO_R1 = PUBLISHED["video_r1_question_template"].replace("{Question}", QUESTION)
VIDEO_R1 += PUBLISHED["video_r1_type_templates"]["multiple choice"]
RETHINKER = QUESTION + PUBLISHED["vl_rethinker_official_user_suffix"]

# pair → (system prompt, what the user asks)
EXPECTED = {
    "mm_eureka_7b": (PUBLISHED["mm_eureka_system"], QUESTION),
    "mm_eureka_32b": (PUBLISHED["mm_eureka_system"], QUESTION),
    "vl_rethinker_7b": (DEFAULT, RETHINKER),
    "vl_rethinker_72b": (DEFAULT, RETHINKER),
    "vl_rethinker_7b_release": (PUBLISHED["vl_rethinker_system_released_config"], QUESTION),
    "deepeyes_7b": (PUBLISHED["deepeyes_system"], QUESTION + PUBLISHED["deepeyes_user"]),
    "video_r1_7b": (DEFAULT, VIDEO_R1),
    "noisyrollout_7b": (PUBLISHED["noisyrollout_system"], QUESTION),
    "vlaa_thinker_3b": (PUBLISHED["vlaa_thinker_system"], QUESTION),
    "vlaa_thinker_7b": (PUBLISHED["vlaa_thinker_system"], QUESTION),
}
CLASSES = {
    "chat": ("qwen2_5_vl", models.Qwen25VLReplay),
    "simple": ("qwen2_5_vl", models.Qwen25VLReplaySimple),
    "qwen3_chat": ("qwen3_vl", models.Qwen3VLReplay),
    "qwen3_simple": ("qwen3_vl", models.Qwen3VLReplaySimple),
}


def test_the_table_has_every_pair_whose_words_are_published():
    worded = {
        name
        for name in (path.stem for path in read_pair_folder().glob("*.yaml"))
        if read_pair(name).protocol.model_dump(
            include={"system_prompt", "question_template", "user_suffix"}, exclude_none=True
        )
    }
    assert worded - {"demo_video"} == EXPECTED.keys()  # which borrows video_r1_7b's words


def read_pair_folder() -> Path:
    from replay_adapters.settings.resources import resource

    return resource("configs") / "pairs"


@pytest.fixture(scope="module")
def asked(tiny_pairs, tmp_path_factory):
    """Return what reaches the tokenizer: class and pair name → (text, generation settings)."""

    def ask(kind: str, name: str, **options):
        family, cls = CLASSES[kind]
        shipped = yaml.safe_load((read_pair_folder() / f"{name}.yaml").read_text("utf-8"))
        pair = tiny_pairs[family]
        # The tiny models stand in, and see few pixels.
        shipped |= {"policy": str(pair.policy), "base": str(pair.base)}
        for published in ("processor", "replay", "inject", "sources", "unknown"):
            shipped.pop(published, None)
        shipped["protocol"].pop("tools", None)  # this task answers no calls
        limits = {"min_pixels": 3136, "max_pixels": 50176}
        shipped["protocol"] |= limits
        file = tmp_path_factory.mktemp("pairs") / f"{name}.yaml"
        file.write_text(yaml.safe_dump(shipped), "utf-8")
        return answered(cls, f"pair={file},replay_method=none", **options)

    return ask


class Request:
    """One of lmms-eval's requests, as far as the classes and the mixin look at it."""

    task_name, doc_id, metadata = "task", 0, MappingProxyType({})

    def __init__(self, arguments):
        self.arguments = arguments

    @property
    def args(self):
        return self.arguments


class Stopped(Exception):
    """Ends the run once the prompt has been seen."""


def answered(cls, arguments, system=None):
    model = cls.create_from_arg_string(arguments, {"device": "cpu", "batch_size": 1})
    seen = []

    def stop(session, rows, inputs, generation, **more):
        seen.append({**inputs, **generation})
        raise Stopped

    model.answerer.answer = stop
    model.task_dict = {"task": {"test": [{"question": QUESTION}]}}
    settings = {"max_new_tokens": 5, "temperature": 0, "until": ["\n\n"]}
    picture = Image.new("RGB", (84, 56), "red")

    def messages(doc):
        turn = {"role": "user", "content": [{"type": "image", "url": picture}]}
        turn["content"].append({"type": "text", "text": doc["question"]})
        before = [{"role": "system", "content": [{"type": "text", "text": system}]}]
        return [*(before if system else []), turn]

    simple = (QUESTION, settings, lambda doc: [picture], 0, "task", "test")
    chat = (QUESTION, messages, settings, 0, "task", "test")
    request = Request(simple if cls.is_simple else chat)
    with pytest.raises(Stopped):
        model.generate_until([request])
    (text,) = model.tokenizer.batch_decode(seen[0]["input_ids"])
    return re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", text), seen[0]


def wire(system: str, user: str) -> str:
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|><|image_pad|><|vision_end|>{user}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("kind", ["chat", "simple"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_pairs_words_reach_the_tokenizer_unchanged(asked, name, kind):
    text, settings = asked(kind, name)
    assert text == wire(*EXPECTED[name])
    ours = read_pair(name).protocol.generation
    assert settings["max_new_tokens"] == ours.get("max_new_tokens", 5)
    if ours.get("temperature"):
        assert settings["do_sample"]
        assert (settings["temperature"], settings["top_p"]) == (ours["temperature"], ours["top_p"])
    else:
        assert not settings["do_sample"]


@pytest.mark.parametrize("kind", ["qwen3_chat", "qwen3_simple"])
def test_qwen3s_own_system_message_is_the_pairs_and_the_only_one(asked, kind):
    for name in ("deepeyes_7b", "video_r1_7b"):
        assert asked(kind, name)[0] == wire(*EXPECTED[name])


@pytest.mark.parametrize("name", ["mm_eureka_7b", "vl_rethinker_7b", "video_r1_7b"])
@pytest.mark.parametrize("kind", ["chat", "qwen3_chat"])
def test_a_tasks_system_prompt_gives_way_to_the_pairs_words(asked, kind, name):
    """Two of the pairs have none themselves: then it is the template's default."""
    text, _ = asked(kind, name, system="The task's own.")
    assert text == wire(*EXPECTED[name])


@pytest.mark.parametrize("cls", [models.Qwen25VLReplay, models.Qwen25VLReplaySimple])
def test_without_a_protocol_the_prompt_is_the_tasks(tiny_pairs, cls):
    given = f"pretrained={tiny_pairs['qwen2_5_vl'].policy},replay_method=none,max_pixels=50176"
    assert answered(cls, given + ",min_pixels=3136")[0] == wire(DEFAULT, QUESTION)


def test_a_class_without_a_place_for_a_system_prompt_refuses_one(tiny_pairs, tmp_path):
    pair = tiny_pairs["llava"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"policy: {pair.policy}\nbase: {pair.base}\nprotocol: {{system_prompt: Think.}}\n"
    )
    with pytest.raises(UsageError, match="simple class of llava_hf has no place; take its chat"):
        models.LlavaHfReplaySimple.create_from_arg_string(
            f"pair={file},replay_method=none", {"device": "cpu"}
        )


def test_frames_go_under_the_name_that_the_class_has(tiny_pairs, tmp_path):
    pair = tiny_pairs["internvl"]
    file = tmp_path / "mine.yaml"
    file.write_text(f"policy: {pair.policy}\nbase: {pair.base}\nprotocol: {{max_num_frames: 6}}\n")
    model = models.InternVLHfReplay.create_from_arg_string(
        f"pair={file},replay_method=none", {"device": "cpu"}
    )
    assert model.num_frames == 6
