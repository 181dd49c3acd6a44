"""Direct injection spelled out for one unpadded sample: whole passes from pixels, nothing cached.

It shares no code with ``replay_core``: activations come from plain hooks, entropies from
``torch.distributions``, and an answer reads the whole text again for every token, the prompt's
positions overwritten each time. Entropies in nats; layers are 0-based.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical
from transformers import PreTrainedModel


@dataclass
class Seen:
    """Activations of a pass by layer, (S, hidden) each, and the entropies after it, (S,)."""

    before: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)
    entropy: dict[int, Tensor] = field(default_factory=dict)


@torch.no_grad()
def look(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Seen:
    """Return what every layer of a clean pass shows."""
    seen, handles = Seen(), []
    for number, layer in enumerate(model.get_decoder().layers):

        def note(module: Any, args: Any, output: Any, number: int = number) -> None:
            seen.before[number], seen.after[number] = args[0][0], output[0]

        handles.append(layer.register_forward_hook(note))
    model(**inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    for number, state in seen.after.items():
        logits = model.get_output_embeddings()(model.get_decoder().norm(state))
        seen.entropy[number] = Categorical(logits=logits.float()).entropy()
    return seen


def masks(
    base: Seen,
    policy: Seen,
    candidates: Tensor,
    *,
    boundary: str,
    layers: Sequence[int],
    select: str,
    threshold: float,
    fixed: Mapping[int, float] | None,
) -> dict[int, Tensor]:
    """Return layer → bool (S,): what is overwritten; ``candidates`` is bool (S,)."""
    chosen = {}
    for layer in layers:
        entropy = base.entropy[layer]
        limit = threshold * entropy[candidates].max() if fixed is None else fixed[layer]
        low = entropy <= limit
        if boundary == "reference":
            low = (entropy < limit if fixed is not None else low) & (
                entropy < policy.entropy[layer]
            )
        rule = {"low": low, "high": ~low, "all": torch.ones_like(low)}[select]
        chosen[layer] = rule & candidates
    return chosen


@contextmanager
def overwritten(
    model: PreTrainedModel, base: Seen, where: Mapping[int, Tensor], boundary: str
) -> Iterator[None]:
    """Overwrite the prompt's positions in every pass inside; longer texts keep their tails."""
    handles = []
    for number, mask in where.items():
        layer = model.get_decoder().layers[number]
        rows = mask.nonzero().squeeze(-1)

        def after(
            module: Any, args: Any, output: Any, number: int = number, rows: Any = rows
        ) -> Any:
            output = output.clone()
            output[0, rows] = base.after[number][rows]
            return output

        def before(module: Any, args: Any, number: int = number, rows: Tensor = rows) -> Any:
            hidden = args[0].clone()
            hidden[0, rows] = base.before[number][rows]
            return (hidden, *args[1:])

        if boundary == "reference":
            handles.append(layer.register_forward_pre_hook(before))
        else:
            handles.append(layer.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def answer(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], tokens: int
) -> tuple[Tensor, list[Tensor]]:
    """Return the greedy answer (tokens,) and the logits (V,) behind each of its tokens."""
    grown, ids, logits = dict(inputs), [], []
    for _ in range(tokens):
        logits.append(model(**grown, use_cache=False).logits[0, -1].float())
        best = logits[-1].argmax()
        ids.append(best)
        for name, value in {"input_ids": best, "attention_mask": 1, "mm_token_type_ids": 0}.items():
            tail = torch.as_tensor(value).reshape(1, 1).to(grown[name])
            grown[name] = torch.cat([grown[name], tail], dim=1)
    return torch.stack(ids), logits
