"""A policy without a usable processor answers with what it has and the rest of its base's."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from transformers import AutoProcessor

from replay_adapters.session.standin import provenance_of
from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import Settings, resolve
from replay_adapters.settings.processors import processor_of, processor_revision
from replay_adapters.vlmevalkit.planned import plan
from replay_core import UsageError, make_pair
from replay_core.pair.identity import checkpoint_revision
from replay_core.pair.loading import load_config, load_model
from tests.replay_adapters.conftest import REPLAY
from tests.support import tiny

PIXELS = "min_pixels=3136,max_pixels=50176"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
IMAGE_FILES = ("processor_config.json",)


@pytest.fixture
def copy(tiny_pairs, tmp_path: Path) -> tiny.TinyPair:
    """Copies of a pair, whose policy asks in a way of its own and whose base wants larger images.

    So one sees whose half of the processor is used.
    """
    pair = tiny_pairs["qwen2_5_vl"]
    policy = shutil.copytree(pair.policy, tmp_path / "policy")
    base = shutil.copytree(pair.base, tmp_path / "base")
    template = policy / "chat_template.jinja"
    template.write_text(template.read_text().replace("a helpful assistant", "an R1 assistant"))
    edit(base / "processor_config.json", image_processor={"patch_size": 14, "resample": 2})
    return tiny.TinyPair(policy, base)


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(content))


def unreleased(policy: Path) -> None:
    edit(
        policy / "processor_config.json",
        image_processor={"image_processor_type": "Qwen2_5_VLImageProcessor"},
    )


def published(policy: Path) -> None:
    """As Video-R1 and R1-Onevision are: one file for the image processor, of early 2025."""
    file = policy / "processor_config.json"
    images = json.loads(file.read_text())["image_processor"]
    images |= {
        "image_processor_type": "Qwen2_5_VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }
    images.pop("size")
    file.unlink()
    (policy / "preprocessor_config.json").write_text(json.dumps(images))


def unreleased_fast(policy: Path) -> None:
    edit(
        policy / "processor_config.json",
        image_processor={"image_processor_type": "Qwen2_5_VLImageProcessorFast"},
    )


def unreleased_for_videos(policy: Path) -> None:
    edit(
        policy / "processor_config.json",
        video_processor={"video_processor_type": "Qwen9VideoProcessor"},
    )


def unreleased_as_a_whole(policy: Path) -> None:
    edit(policy / "processor_config.json", processor_class="Qwen9Processor")


def no_images(policy: Path) -> None:
    (policy / "processor_config.json").unlink()


def no_text(policy: Path) -> None:
    for name in TEXT_FILES:
        (policy / name).unlink()


def no_vocabulary(policy: Path) -> None:
    (policy / "tokenizer.json").unlink()


def nothing(policy: Path) -> None:
    no_images(policy)
    no_text(policy)


def nothing_but_a_template(policy: Path) -> None:
    no_images(policy)
    for name in TEXT_FILES[:2]:
        (policy / name).unlink()


def settings_for(pair: tiny.TinyPair, **more: Any) -> Settings:
    return resolve({"pretrained": str(pair.policy), "replay_base": str(pair.base), **more})


def used(settings: Settings) -> tuple[bool, bool, int]:
    """Return whose template and whose image settings a processor has, and its vocabulary."""
    processor = AutoProcessor.from_pretrained(processor_of(settings).source)
    own_template = "an R1 assistant" in processor.chat_template
    return own_template, int(processor.image_processor.resample) == 3, len(processor.tokenizer)


WHOLE = 379


@pytest.mark.parametrize(
    ("damage", "own_template", "own_images", "told"),
    [
        (unreleased, True, False, "ships no image processor that can be loaded (Unrecognized"),
        (published, True, False, "ships no image processor that can be loaded (Unrecognized"),
        (unreleased_fast, True, False, "ships no image processor"),
        (unreleased_for_videos, True, False, "ships no image processor"),
        (unreleased_as_a_whole, True, False, "(the class of its processor is not in transfor"),
        (no_images, True, False, "ships no image processor that can be loaded (Can't load image"),
        (no_vocabulary, True, True, "ships no tokenizer that can be loaded (its tokenizer has no"),
        (no_text, False, True, "ships no tokenizer"),
        (nothing, False, False, "ships no image processor and no tokenizer"),
        (nothing_but_a_template, True, False, "ships no image processor and no tokenizer"),
    ],
)
def test_what_the_policy_has_is_kept_and_the_rest_is_its_bases(
    copy: tiny.TinyPair,
    damage: Callable[[Path], None],
    own_template: bool,
    own_images: bool,
    told: str,
) -> None:
    said: list[str] = []
    handle = logger.add(lambda line: said.append(str(line)), format="{message}")
    try:
        assert used(settings_for(copy)) == (True, True, WHOLE)
        assert said == []
        damage(copy.policy)
        settings = settings_for(copy)
        assert used(settings) == (own_template, own_images, WHOLE)
        processor_of(settings)
    finally:
        logger.remove(handle)
    (line,) = said  # once, not at every question
    assert told in line
    assert line.endswith(f"what is missing is taken from its base {copy.base}\n")


def test_a_processor_that_a_pair_file_names_is_taken_whole(
    copy: tiny.TinyPair, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"policy: {copy.policy}\nbase: {copy.base}\nprocessor: {copy.base}\n")
    unreleased(copy.policy)
    settings = resolve({"pair": str(file)})
    assert processor_of(settings).source == str(copy.base)
    assert used(settings) == (False, False, WHOLE)
    unreleased(copy.base)
    with pytest.raises(UsageError, match=f"the processor {copy.base} cannot be loaded: Unrecog"):
        processor_of(settings)


def test_where_nobody_has_a_processor_one_sentence_says_so(copy: tiny.TinyPair) -> None:
    nothing(copy.policy)
    unreleased(copy.base)
    with pytest.raises(UsageError) as error:
        processor_of(settings_for(copy))
    text = str(error.value)
    assert text.startswith(f"{copy.policy} ships no processor that can be loaded (")
    assert f"and neither does its base {copy.base} (Unrecognized image processor" in text
    assert "'processor' in a pair file" in text
    alone = resolve({"pretrained": str(copy.policy), "replay_method": "none"})
    with pytest.raises(UsageError, match="ships no processor") as error:
        processor_of(alone)
    assert "its base" not in str(error.value)


@pytest.mark.parametrize("name", [*TEXT_FILES[:2], *IMAGE_FILES])
@pytest.mark.parametrize(
    ("content", "told"), [("{", "is not JSON"), ("version https://git-lfs.git", "a git-lfs poin")]
)
def test_a_damaged_file_is_not_replaced_by_the_bases(
    copy: tiny.TinyPair, name: str, content: str, told: str
) -> None:
    (copy.policy / name).write_text(content)
    with pytest.raises(UsageError, match=told) as error:
        processor_of(settings_for(copy))
    assert str(copy.policy / name) in str(error.value)


# --- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [None, published, nothing], ids=["sound", "half", "none"])
@pytest.mark.parametrize("whose", ["policy", "base", "processor"])
@pytest.mark.parametrize("method", ["replay", "none"])
def test_another_chat_template_is_another_identity_in_both_harnesses(
    copy: tiny.TinyPair,
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    whose: str,
    method: str,
) -> None:
    """Whether it is the policy's, the base's where that one is used, or of a folder of its own."""
    if damage is not None:
        damage(copy.policy)
    given = {"pretrained": str(copy.policy), "replay_base": str(copy.base)}
    if whose == "processor":
        shutil.copytree(copy.base, tmp_path / "processor")
        file = tmp_path / "mine.yaml"
        file.write_text(
            f"policy: {copy.policy}\nbase: {copy.base}\nprocessor: {tmp_path / 'processor'}\n"
        )
        given = {"pair": str(file)}
    given["replay_method"] = method
    template = tmp_path / whose / "chat_template.jinja"
    policy = load_model(copy.policy)
    pair = make_pair(policy, policy)

    def both() -> tuple[str, str]:
        settings = resolve(given)
        # The rest of the identity, the weights' revisions, was made when they were loaded.
        return settings.fingerprint(str(provenance_of(pair, settings))), plan(given).fingerprint

    first = both()
    assert both() == first
    template.write_text(("" if not template.exists() else template.read_text()) + "\n")
    second = both()
    read = whose != "base" or damage is not None
    assert (first[0] != second[0]) is read
    assert first[1] != second[1] or (method == "none" and not read)


def test_the_revision_of_a_processor_names_all_its_sources(copy: tiny.TinyPair) -> None:
    assert processor_revision(settings_for(copy)) == checkpoint_revision(copy.policy)
    unreleased(copy.policy)
    both = f"{checkpoint_revision(copy.policy)}+{checkpoint_revision(copy.base)}"
    assert processor_revision(settings_for(copy)) == both


# --- through both harnesses -----------------------------------------------------------------------


def test_lmms_eval_answers_as_with_a_sound_processor(
    copy: tiny.TinyPair, tmp_path: Path, several_lmms_evals: Any
) -> None:
    """The sound twin has the policy's tokenizer and template and the base's image processor."""
    sound = shutil.copytree(copy.policy, tmp_path / "sound")
    shutil.copy(copy.base / "processor_config.json", sound)
    published(copy.policy)
    bare = shutil.copytree(copy.policy, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    no_text(bare)
    file = tmp_path / "bare.yaml"
    file.write_text(f"policy: {bare}\nbase: {copy.base}\nprocessor: {copy.base}\n")
    common = f"{PIXELS},{REPLAY},dtype=float32"
    named = [f"pretrained={folder},replay_base={copy.base}" for folder in (copy[0], sound, bare)]
    runs = [
        ("launcher", "qwen2_vl_replay", f"{which},{common}", "replay_test_pictures")
        for which in (*named, f"pair={file}")
    ]
    as_published, as_sound, without, as_named = several_lmms_evals(runs)
    assert as_published.code == as_sound.code == without.code == 0, as_published.output
    assert as_published.answers == as_sound.answers != without.answers
    assert without.answers == as_named.answers
    assert f"{copy.policy} ships no image processor that can be loaded" in as_published.output
    assert f"{bare} ships no image processor and no tokenizer" in without.output
    revision = as_published.results["replay"]["processor_revision"]
    assert revision.endswith(f"+{checkpoint_revision(copy.base)}")


@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_every_familys_own_processor_is_taken_and_another_ones_is_not(tiny_pairs, family):
    pair = tiny_pairs[family]
    given = {"pretrained": str(pair.policy), "replay_base": str(pair.base)}
    settings = resolve(given)
    config = check_checkpoints(settings)
    assert config.model_type == load_config(pair.policy).model_type
    other = tiny_pairs["llava" if family != "llava" else "qwen2_vl"].policy
    foreign = settings.pair.model_copy(update={"processor": str(other)})
    with pytest.raises(UsageError, match="is not one for"):
        check_checkpoints(replace(settings, pair=foreign))
