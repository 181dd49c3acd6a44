"""Packed batches, sampling and the logit lens for the demo pair's training, on plain CPU.

Several blocks of text share one image prefix in a row of the batch: a block sees the prefix and
itself, not its neighbours. The vision tower and the prefix are then computed once per image
rather than once per question (base) or per sampled answer (RL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

Model = Qwen2_5_VLForConditionalGeneration
MAX_LENGTH = 128  # longest logical sequence: prompt and answer are below 70 tokens
MAX_NEW_TOKENS = 16


class Block(NamedTuple):
    """Tokens that follow a row's shared part; those from `first_target` on are trained on."""

    ids: list[int]
    first_target: int
    weight: float = 1.0


@dataclass(frozen=True)
class Packed:
    """A packed batch of B rows of S positions with T target tokens.

    Attributes:
        ids: (B, S) token ids, right-padded within the shared part and within each block.
        index: (B, S) place of each token in its own unpacked sequence.
        mask: (B, 1, S, S) true where a query may look.
        rows, sources, targets, weights: (T,) the token `targets` is predicted at position
            `sources` of row `rows`.
        leads: (B,) how many tokens of the question stand before the image.
    """

    ids: Tensor
    index: Tensor
    mask: Tensor
    rows: Tensor
    sources: Tensor
    targets: Tensor
    weights: Tensor
    leads: Tensor


def pack(
    shared: list[list[int]], blocks: list[list[Block]], pad_id: int, leads: list[int] | None = None
) -> Packed:
    """Lay out each row's shared tokens, then its blocks; every row has as many blocks."""
    shared_width = max(map(len, shared))
    block_width = max(len(block.ids) for row in blocks for block in row)
    width = shared_width + block_width * len(blocks[0])
    ids = torch.full((len(shared), width), pad_id)
    index = torch.zeros(len(shared), width, dtype=torch.long)
    segment = torch.full((len(shared), width), -1)  # -1 padding, 0 shared, then the block number
    rows, sources, targets, weights = [], [], [], []

    for row, (head, row_blocks) in enumerate(zip(shared, blocks, strict=True)):
        ids[row, : len(head)] = torch.tensor(head)
        index[row, : len(head)] = torch.arange(len(head))
        segment[row, : len(head)] = 0
        for number, block in enumerate(row_blocks):
            start = shared_width + number * block_width
            here = slice(start, start + len(block.ids))
            ids[row, here] = torch.tensor(block.ids)
            index[row, here] = len(head) + torch.arange(len(block.ids))
            segment[row, here] = number + 1
            for offset in range(block.first_target, len(block.ids)):
                rows.append(row)
                sources.append(start + offset - 1 if offset else len(head) - 1)
                targets.append(block.ids[offset])
                weights.append(block.weight)

    key, query = segment[:, None, :], segment[:, :, None]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    mask = causal & ((key == 0) | (key == query)) & (key >= 0)
    # A padding row must look somewhere, or its softmax is 0 / 0.
    mask |= torch.eye(width, dtype=torch.bool)
    as_ids = torch.tensor([rows, sources, targets])
    before = torch.tensor(leads or [0] * len(shared))
    return Packed(ids, index, mask[:, None], *as_ids, torch.tensor(weights), before)


class Reader:
    """Runs a tiny Qwen2.5-VL on equal-sized single images.

    They stand at the same place of every prompt, or `leads` tokens further on.
    """

    def __init__(self, model: Model, prefix: list[int], grid_thw: tuple[int, int, int]) -> None:
        """`prefix` holds the prompt up to the end of the image, without any question."""
        self.model = model
        self.grid = torch.tensor([grid_thw])
        image_id = model.config.image_token_id
        self.visual = torch.tensor([i for i, token in enumerate(prefix) if token == image_id])
        filled = torch.tensor([prefix + [0] * (MAX_LENGTH - len(prefix))])
        self.positions, _ = model.model.get_rope_index(
            filled, mm_token_type_ids=(filled == image_id).int(), image_grid_thw=self.grid
        )

    def place(self, index: Tensor, leads: Tensor) -> Tensor:
        """(3, B, S) M-RoPE positions of tokens `index` (B, S) in rows with `leads` (B,)."""
        behind = index - leads[:, None]
        moved = self.positions[:, 0][:, behind.clamp(min=0)] + leads[:, None]
        return torch.where(behind < 0, index, moved)

    def embed(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """(B, S, hidden) input embeddings with each row's image features in place.

        Where there are fewer images than rows, each serves as many rows in turn.
        """
        images = len(pixels) // int(self.grid.prod())
        features = self.model.model.visual(pixels, grid_thw=self.grid.repeat(images, 1))
        each = features.pooler_output.unflatten(0, (images, -1))
        embeds = self.model.get_input_embeddings()(ids)
        is_image = ids == self.model.config.image_token_id
        is_image &= is_image.cumsum(1) <= len(self.visual)  # a sampled answer may hold stray ones
        return embeds.masked_scatter(
            is_image[..., None], each.repeat_interleave(len(ids) // images, 0)
        )

    def hidden(self, batch: Packed, pixels: Tensor, every_layer: bool = False) -> list[Tensor]:
        """Normed hidden states, (B, S, hidden) each: after every layer, or the last one alone."""
        decoder = self.model.get_decoder()
        out = decoder(
            inputs_embeds=self.embed(batch.ids, pixels),
            attention_mask={"full_attention": batch.mask},
            position_ids=self.place(batch.index, batch.leads),
            use_cache=False,
            output_hidden_states=every_layer,
        )
        # The last entry of hidden_states is normed already, the first is the embeddings.
        before = [decoder.norm(h) for h in out.hidden_states[1:-1]] if every_layer else []
        return [*before, out.last_hidden_state]

    def target_log_probs(self, batch: Packed, last_hidden: Tensor) -> Tensor:
        """(T,) log-probability of each target token, in nats."""
        logits = self.model.lm_head(last_hidden[batch.rows, batch.sources])
        return -cross_entropy(logits, batch.targets, reduction="none")

    def lens(self, hidden: list[Tensor], leads: Tensor) -> Tensor:
        """(layers, B, visual, vocabulary) logit lens at the visual positions of normed states."""
        rows = torch.arange(len(leads))[:, None]
        columns = self.visual + leads[:, None]
        return self.model.lm_head(torch.stack([h[rows, columns] for h in hidden]))

    @torch.no_grad()
    def sample(
        self,
        prompts: list[list[int]],
        pixels: Tensor,
        leads: list[int],
        k: int = 1,
        temperature: float = 0.0,
    ) -> list[list[list[int]]]:
        """Answers, k to each prompt, cut behind the end token; temperature 0 is greedy (k = 1)."""
        config = self.model.config.text_config
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        padded = [[config.pad_token_id] * (width - len(p)) + p for p in prompts]
        index = (torch.arange(width) - (width - lengths)[:, None]).clamp(min=0)
        real = torch.arange(width) >= (width - lengths)[:, None]
        square = torch.ones(width, width, dtype=torch.bool)
        mask = (square.tril() & real[:, None, :]) | torch.eye(width, dtype=torch.bool)

        before = torch.tensor(leads)
        decoder, cache = self.model.get_decoder(), DynamicCache(config=config)
        step = decoder(
            inputs_embeds=self.embed(torch.tensor(padded), pixels),
            attention_mask={"full_attention": mask[:, None]},
            position_ids=self.place(index, before),
            past_key_values=cache,
        )
        cache.batch_repeat_interleave(k)
        last = step.last_hidden_state[:, -1].repeat_interleave(k, 0)
        real, lengths = real.repeat_interleave(k, 0), lengths.repeat_interleave(k)
        before = before.repeat_interleave(k)
        done = torch.zeros(len(last), dtype=torch.bool)
        tokens = []
        for place in range(MAX_NEW_TOKENS):
            logits = self.model.lm_head(last)
            if temperature > 0:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
            else:
                chosen = logits.argmax(-1)
            tokens.append(chosen)
            done |= chosen == config.eos_token_id
            if done.all():
                break
            real = pad(real, (0, 1), value=True)
            step = decoder(
                input_ids=chosen[:, None],
                attention_mask={"full_attention": real[:, None, None]},
                position_ids=self.place((lengths + place)[:, None], before),
                past_key_values=cache,
            )
            last = step.last_hidden_state[:, 0]
        answers = [cut(row, config.eos_token_id) for row in torch.stack(tokens, 1).tolist()]
        return [answers[i : i + k] for i in range(0, len(answers), k)]


def cut(ids: list[int], end: int) -> list[int]:
    """`ids` up to and including the first `end`."""
    return ids[: ids.index(end) + 1] if end in ids else ids
