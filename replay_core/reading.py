"""What the logit lenses of a pair read at every position of a prompt, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replay_core.divergence import kl
from replay_core.lens import Lens, entropy
from replay_core.model.call import decoder_call
from replay_core.model.inputs import savable
from replay_core.model.padding import attention_mask_of, left_padded
from replay_core.model.vision import Inputs, placeholder_masks, visual_features
from replay_core.pair.pair import Pair, frozen

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """Both lenses at every position of one prompt; arrays are (layers, positions).

    ``entropy`` is the base's and ``kl`` is KL(base ‖ policy), in nats over the whole vocabulary;
    ``base_top`` and ``policy_top`` are the ids of the largest logits; ``visual`` (positions,) says
    where image and video tokens stand.
    """

    entropy: Floats
    kl: Floats
    base_top: np.ndarray
    policy_top: np.ndarray
    visual: np.ndarray


@torch.no_grad()
def read(pair: Pair, inputs: Inputs, layers: Sequence[int] | None = None) -> list[Reading]:
    """Return one reading per sample, after each of ``layers`` (all decoder layers where None).

    Both models see the same prompt. In float32, whatever the models' dtype; models that are
    bitwise equal give a divergence of exactly 0.
    """
    policy, base = pair.policy, pair.base
    layers = range(len(policy.layers)) if layers is None else layers
    with torch.inference_mode(False), torch.no_grad(), frozen(policy.model, base.model):
        inputs = savable(left_padded(inputs))
        kept = attention_mask_of(inputs).bool()
        features = visual_features(policy.model, inputs)
        ours_after = decoder_call(policy, inputs, features).activations(layers, where="after")
        with pair.as_base():
            seen = pair.seen_by_base(inputs, features)
            theirs_after = decoder_call(base, *seen).activations(layers, where="after")
        by_layer = [
            _compare(pair, theirs_after.pop(layer)[kept.to(base.model.device)], mine[kept])
            for layer, mine in list(ours_after.items())
        ]
        row = torch.nonzero(kept)[:, 0].cpu()
        masks = placeholder_masks(policy.model, inputs["input_ids"])
        visual = torch.stack(list(masks.values())).any(0)[kept].cpu() if masks else row < 0
    entropies, divergences, base_top, policy_top = (
        torch.stack(part) for part in zip(*by_layer, strict=True)
    )
    readings = []
    for sample in range(len(kept)):
        mine = row == sample
        readings.append(
            Reading(
                entropy=entropies[:, mine].double().numpy(),
                kl=divergences[:, mine].double().numpy(),
                base_top=base_top[:, mine].numpy(),
                policy_top=policy_top[:, mine].numpy(),
                visual=visual[mine].numpy(),
            )
        )
    return readings


def _compare(pair: Pair, base_hidden: Tensor, policy_hidden: Tensor) -> tuple[Tensor, ...]:
    """Return entropy, KL and both top ids (positions,) of one layer, on the CPU."""
    parts: list[list[Tensor]] = [[], [], [], []]
    for rows, other in Lens(pair.policy).chunks(policy_hidden):
        with pair.as_base():
            logits = Lens(pair.base).logits(base_hidden[rows]).to(other.device)
        divergence = kl(logits.log_softmax(-1), other.log_softmax(-1))
        values = (entropy(logits), divergence, logits.argmax(-1), other.argmax(-1))
        for part, value in zip(parts, values, strict=True):
            part.append(value.cpu())
    return tuple(torch.cat(part) for part in parts)
