"""Rotary positions at the decoder, worked out by hand, of every class's batches of clips.

Text counts on by one. A picture or clip of t x h x w tokens starts where the text before it ends:
temporal, height and width run from there, and the text behind goes on above the largest, with a
pair that says so; else above the largest but the temporal one, as transformers counts. What a
step in time is differs: 1 in Qwen2-VL, the seconds it stands for times the model's ticks, rounded
down, in Qwen2.5-VL; Qwen3-VL writes each step's time as text, and gives it a grid of its own.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.replay_adapters.lmms_eval.clip_reading import CLASSES

BATCHES = {
    "one": ["slow"],
    "two_rates": ["four_seconds", "long"],
    "with_a_picture": ["seven", "picture", "one", "slow"],
    "picture_first": ["picture", "four_seconds"],
}


@pytest.fixture(scope="module")
def shown(clips, tmp_path_factory):
    """Every clip, and a picture, by name."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    values = np.random.default_rng(0).integers(0, 255, (84, 140, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return {**clips, "picture": path}


def positions_at_decoder(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    """Return (temporal, height, width) by row and token, (3, batch, tokens)."""
    caught: list[torch.Tensor] = []
    policy = model.pair.policy.model

    def note(module, given, named):
        caught.append(named["position_ids"])

    handle = policy.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        policy.generate(**arguments)
    finally:
        handle.remove()
    return caught[0][-3:]  # behind text positions, where there are any


def grids_of(arguments: dict[str, Any], kind: str) -> Iterator[list[int]]:
    found = arguments.get(f"{kind}_grid_thw")
    return iter([] if found is None else found.tolist())


def by_hand(model: Any, arguments: dict[str, Any], family: str, behind: bool) -> list[torch.Tensor]:
    """Return each row's positions, (3, tokens of the row)."""
    config = model.pair.policy.model.config
    merge = config.vision_config.spatial_merge_size
    ticks = getattr(config.vision_config, "tokens_per_second", None)
    images, videos = grids_of(arguments, "image"), grids_of(arguments, "video")
    rates = iter(torch.as_tensor(arguments.get("second_per_grid_ts", [])).tolist())
    rows = []
    for ids, mask in zip(arguments["input_ids"], arguments["attention_mask"].bool(), strict=True):
        tokens, found, at, left = ids[mask].tolist(), [], 0, 0
        while len(found) < len(tokens):
            token = tokens[len(found)]
            if token not in (config.image_token_id, config.video_token_id):
                found.append((at, at, at))
                at += 1
                continue
            step = 1.0
            if token == config.image_token_id:
                steps, height, width = next(images)
            elif family == "qwen3_vl":
                if left == 0:
                    left, height, width = next(videos)
                steps, left = 1, left - 1
            else:
                steps, height, width = next(videos)
                step = next(rates) * ticks if family == "qwen2_5_vl" else 1.0
            down, across = height // merge, width // merge
            grid = [
                (at + int(time * step + 1e-6), at + row, at + column)
                for time in range(steps)
                for row in range(down)
                for column in range(across)
            ]
            found += grid
            at = max(max(one) if behind else max(one[1:]) for one in grid) + 1
        rows.append(torch.tensor(found).T)
    assert next(images, None) is None, "a picture's tokens are missing"
    assert next(videos, None) is None, "a clip's tokens are missing"
    return rows


@pytest.fixture(scope="module")
def behind(tiny_pairs, tmp_path_factory):
    """Each family's pair, with a protocol that lets text stand behind clips."""
    root, made = tmp_path_factory.mktemp("behind"), {}
    for family, (policy, base) in tiny_pairs.items():
        made[family] = root / f"{family}.yaml"
        protocol = {"text_behind_clips": True}
        content = {"policy": str(policy), "base": str(base), "protocol": protocol}
        made[family].write_text(yaml.safe_dump(content))
    return made


@pytest.mark.parametrize("trained", [True, False], ids=["behind_clips", "as_it_is"])
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("batch", BATCHES)
def test_positions_are_those_worked_out_by_hand(asked, shown, behind, name, batch, trained):
    family, _ = CLASSES[name]
    paths = [shown[one] for one in BATCHES[batch]]
    model, arguments = asked(name, paths, behind[family] if trained else None)
    assert len(arguments["input_ids"]) == len(BATCHES[batch])
    seen = positions_at_decoder(model, arguments)
    masks = arguments["attention_mask"].bool()
    for row, expected in enumerate(by_hand(model, arguments, family, trained)):
        mine = seen[:, row, masks[row]]
        assert torch.equal(mine - mine[:, :1], expected.to(mine)), (row, name)


def test_an_answer_goes_on_behind_its_prompt(asked, shown, behind):
    """The position of each new token is one above the last, in the model's own ``generate``."""
    for name in ("qwen2_5_chat", "qwen2_simple"):
        family, _ = CLASSES[name]
        paths = [shown[one] for one in BATCHES["with_a_picture"]]
        model, arguments = asked(name, paths, behind[family])
        policy, caught = model.pair.policy.model, []

        def note(module, given, named, caught=caught):
            caught.append(named["position_ids"][-3:])

        handle = policy.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            policy.generate(**{**arguments, "max_new_tokens": 3, "min_new_tokens": 3})
        finally:
            handle.remove()
        prompt, *steps = caught
        assert [step.shape[-1] for step in steps] == [1, 1]
        for later, step in enumerate(steps, start=1):
            assert torch.equal(step[:, :, 0], prompt[:, :, -1] + later), name
