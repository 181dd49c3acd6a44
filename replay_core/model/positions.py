"""Positions of what follows a clip.

Qwen2-VL and Qwen2.5-VL were trained with text that goes on above the largest position of the clip
before it, temporal ones included (arXiv 2409.12191, section 2.1). From transformers 5.3 to 5.24 it
goes on above the largest spatial one, so that a question lies among the positions of a long clip's
frames, while the answer starts behind them all.
"""

import functools
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

_FAMILIES = ("qwen2_vl", "qwen2_5_vl")
_CLIP = 2  # a clip's tokens in mm_token_type_ids


def put_text_behind_clips(model: PreTrainedModel) -> None:
    """Let what follows a clip take positions above all of the clip's, in all that ``model`` does.

    Prompts without clips, and other families, are left as they are. To be dropped when
    transformers' ``get_rope_index`` goes on above the largest position itself, as vLLM's does.
    """
    if model.config.model_type not in _FAMILIES:
        return
    inner: Any = model.model
    original = inner.get_rope_index

    @functools.wraps(original)
    def get_rope_index(
        input_ids: Tensor,
        mm_token_type_ids: Tensor,
        *given: Any,
        attention_mask: Tensor | None = None,
        **named: Any,
    ) -> tuple[Tensor, Tensor]:
        named["attention_mask"] = attention_mask
        positions, deltas = original(input_ids, mm_token_type_ids, *given, **named)
        if not (mm_token_type_ids == _CLIP).any():
            return positions, deltas
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return behind_clips(positions, mm_token_type_ids, mask.bool())

    inner.get_rope_index = get_rope_index


def behind_clips(positions: Tensor, kinds: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions (3, batch, tokens) with what follows a clip moved up where it is too low.

    ``kinds`` (batch, tokens) are 2 for a clip's tokens, ``kept`` is the attention mask. Beside the
    positions stands how far each row's next one is above its number of tokens, (batch, 1).
    """
    moved, above = positions.clone(), []
    for row, mask in enumerate(kept):
        at = mask.nonzero()[:, 0]
        mine = moved[:, row, at]  # (3, tokens of the row)
        for begin, end in _clips(kinds[row, at].tolist()):
            mine[:, end:] += max(0, int(mine[:, begin:end].max()) + 1 - int(mine[:, end].min()))
        moved[:, row, at] = mine
        above.append(int(mine.max()) + 1 - len(at))
    return moved, torch.tensor(above, device=positions.device)[:, None]


def _clips(kinds: list[int]) -> list[tuple[int, int]]:
    """Return where each clip begins and ends, of those that something follows."""
    changes = [0, *(n + 1 for n, (one, other) in enumerate(pairwise(kinds)) if one != other)]
    return [(begin, end) for begin, end in pairwise(changes) if kinds[begin] == _CLIP]
