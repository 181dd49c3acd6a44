"""Prompts as vLLM takes them: token ids, and features in place of pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from replay_core.errors import UsageError
from replay_core.model.padding import attention_mask_of
from replay_core.model.rows import owners_of, patches_per_token
from replay_core.model.vision import Inputs, VisualFeatures, flattened


@dataclass(frozen=True, repr=False)
class Seen:
    """What one prompt shows of one modality.

    ``embeds`` are the features (tokens, width) of all its pictures or clips, on the CPU; ``grid``
    (pictures, 3) their patches in time, height and width; ``seconds`` (clips,) how long one step in
    time is, where the family counts in seconds.
    """

    embeds: Tensor
    grid: Tensor
    seconds: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """One prompt: its ids without padding, one placeholder for each picture or clip; and these."""

    ids: tuple[int, ...]
    seen: Mapping[str, Seen] = field(default_factory=dict)


def prompts_of(
    model: PreTrainedModel, inputs: Inputs, features: VisualFeatures | None, flat: Tensor | None
) -> list[Prompt]:
    """Return the prompts of a batch.

    ``inputs`` are the processor's whole output. ``flat`` (visual tokens, hidden) are the features
    that the language model is to see, features + x; both are None for a batch without pictures. The
    deepstack features of Qwen3-VL stand beside its features as they are, which is how its class in
    vLLM takes them.

    Raises:
        UsageError: a clip is shown to a family whose clips vLLM lays out otherwise, or it cannot be
            told which pictures are whose.
    """
    masks = attention_mask_of(inputs).bool()
    rows = [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)]
    if features is None or flat is None:
        return [Prompt(tuple(row)) for row in rows]
    placeholders = {getattr(model.config, f"{modality}_token_id") for modality in features.outputs}
    owner, _ = torch.nonzero(features.positions, as_tuple=True)
    owner = owner.to(flat.device)
    shown: list[dict[str, Seen]] = [{} for _ in rows]
    for modality, output in features.outputs.items():
        if modality == "video" and model.config.model_type == "qwen3_vl":
            raise UsageError(
                "clips of Qwen3-VL cannot be decoded with vLLM, which writes their times into the "
                "prompt itself; take decode=transformers"
            )
        mine = features.is_modality[modality]
        deep = [flattened(level) for level in getattr(output, "deepstack_features", None) or ()]
        embeds = torch.cat([flat[mine], *(level.to(flat) for level in deep)], -1).detach().cpu()
        whose = owner[mine].cpu()
        grids = inputs[f"{modality}_grid_thw"].cpu()
        counts = torch.bincount(whose, minlength=len(rows)).tolist()
        pictures = owners_of(grids, counts, patches_per_token(model))
        if pictures is None:
            raise UsageError(f"it cannot be told which {modality}s belong to which prompt")
        seconds = inputs.get("second_per_grid_ts") if modality == "video" else None
        for number, row in enumerate(shown):
            if counts[number]:
                own = torch.tensor([one == number for one in pictures])
                row[modality] = Seen(
                    embeds[whose == number].contiguous(),
                    grids[own],
                    None if seconds is None else seconds.cpu()[own],
                )
    return [
        Prompt(_collapsed(ids, placeholders), seen) for ids, seen in zip(rows, shown, strict=True)
    ]


def _collapsed(ids: list[int], placeholders: set[int]) -> tuple[int, ...]:
    """Return ids with one placeholder in the place of each run of them."""
    kept: list[int] = []
    for token, run in groupby(ids):
        kept += [token] if token in placeholders else list(run)
    return tuple(kept)
