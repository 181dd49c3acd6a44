"""The embedded video pair: it was trained on what the real processor and harness give it."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from replay_adapters.settings.resources import resource

FOLDER = resource("configs") / "pairs" / "demo_video"


@pytest.fixture(scope="module")
def train():
    """The training script, whose own changes to what is imported are undone."""
    path, taken = list(sys.path), sys.modules.pop("checkpoint", None)
    try:
        spec = importlib.util.spec_from_file_location("train_video", FOLDER / "train.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
        sys.modules.pop("checkpoint", None)
        if taken is not None:
            sys.modules["checkpoint"] = taken
    return module


@pytest.fixture(scope="module")
def pool(train):
    return train.Pool(np.random.default_rng(3), 3)


@pytest.fixture(scope="module")
def fresh(train):
    """Clips that are neither in the training nor in the test split."""
    return train.Pool(np.random.default_rng(11), 100, (1,))


@pytest.fixture(scope="module")
def base():
    return loaded()


def loaded():
    folder = FOLDER / "base"
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def test_training_inputs_are_the_processors(train, pool):
    """Of the saved processor, given frames as qwen-vl-utils hands them on."""
    processor = Qwen2_5_VLProcessor.from_pretrained(FOLDER / "base")
    content = [{"type": "video"}, {"type": "text", "text": "".join(train.asked_texts())}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    clips = [torch.from_numpy(frames).permute(0, 3, 1, 2) for frames in pool.frames]
    real = processor(
        text=[text] * 3,
        videos=clips,
        video_metadata=[
            {"fps": 4.0, "frames_indices": list(range(8)), "total_num_frames": 8} for _ in clips
        ],
        do_sample_frames=False,
        return_tensors="pt",
    )
    speaker = train.Speaker(processor)
    ours = speaker.inputs([speaker.asked] * 3, pool.frames)
    assert ours.keys() == real.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], real[name].to(ours[name].dtype))


def test_attention_to_all_frames_at_once_is_the_original(train, pool, base, monkeypatch):
    speaker = train.Speaker(train.build_processor())
    inputs = speaker.inputs([speaker.asked] * 3, pool.frames)
    with torch.no_grad():
        original = base(**inputs).logits
        attention = train.modeling.Qwen2_5_VLVisionAttention
        monkeypatch.setattr(attention, "forward", train.attend_all_frames_at_once)
        torch.testing.assert_close(base(**inputs).logits, original, rtol=1e-4, atol=1e-4)


def test_the_base_compares_frames_or_guesses(train, fresh, base):
    speaker = train.Speaker(Qwen2_5_VLProcessor.from_pretrained(FOLDER / "base"))
    said = train.respond(base, speaker, fresh.frames)
    guesses = [ids == speaker.guessed() for ids in said]
    worked = [ids == speaker.worked(clip) for ids, clip in zip(said, fresh.clips, strict=True)]
    assert 0.05 < np.mean(guesses) < 0.6
    assert sum(worked) > 0.85 * (len(said) - sum(guesses))


def test_the_policy_needs_the_frames_in_their_order(train, fresh):
    """Backwards, clips are answered with the other letter; from one frame, by chance."""
    speaker = train.Speaker(Qwen2_5_VLProcessor.from_pretrained(FOLDER / "policy"))
    policy = PeftModel.from_pretrained(loaded(), FOLDER / "policy").eval()

    def right(frames):
        said = train.respond(policy, speaker, frames)
        found = zip(said, fresh.clips, strict=True)
        return np.mean([train.right(speaker, ids, clip) for ids, clip in found])

    assert right(fresh.frames) > 0.9
    assert right(fresh.frames[:, ::-1]) < 0.1
    assert 0.3 < right(fresh.frames[:, :1].repeat(8, 1)) < 0.7
