"""KL divergence from the base's distributions to the policy's, in nats."""

import torch
from torch import Tensor


def kl(base_log_probs: Tensor, policy_log_probs: Tensor) -> Tensor:
    """Return ``KL(base ‖ policy) = Σ p_base (log p_base - log p_policy)`` over the last axis.

    Both are log-probabilities (…, support), normalised over the same support. In nats, at least 0
    up to rounding, exactly 0 where both sides are bitwise equal.
    """
    gap = base_log_probs - policy_log_probs
    # An id that the base rules out (log p = -inf) adds nothing.
    return (base_log_probs.exp() * gap.masked_fill(base_log_probs.isneginf(), 0)).sum(-1)


def masked_mean(values: Tensor, owner: Tensor, samples: int) -> Tensor:
    """Return the mean of ``values`` (n,) per sample, (samples,); 0 for a sample without values.

    ``owner`` (n,) says which sample each value belongs to. The mean has the dtype of ``values``,
    but is counted and summed in float32 at least, as torch's own mean is: 256 + 1 is 256 in
    bfloat16, and 2048 + 1 is 2048 in float16.
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    empty = torch.zeros(samples, dtype=wide, device=values.device)
    total = empty.index_add(0, owner, values.to(wide))
    # Not by bincount, for whose result an accelerator would have to be waited for.
    count = empty.index_add(0, owner, torch.ones_like(values, dtype=wide))
    return (total / count.clamp(min=1)).to(values.dtype)
