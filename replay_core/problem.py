"""The replay loss of a batch, as a function of x.

    L(x) = (1/N) Σ_l mean_{i in M_l} KL(p_base[l,i] ‖ p_policy[l,i])

x is added to the visual features at the language model's input; both models stay frozen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from replay_core.candidates import Candidates
from replay_core.config import ReplayConfig
from replay_core.divergence import masked_mean
from replay_core.errors import UsageError
from replay_core.lens import Lens, arithmetic
from replay_core.model.call import DecoderCall
from replay_core.model.checkpointing import SavedBytes
from replay_core.model.vision import VisualFeatures
from replay_core.targets import LayerTarget, ReplayTargets

# Below this many nats per layer a KL computed in float32 is rounding: log-probabilities of
# magnitude 20 carry an error of about 16 eps each, and both sides have one.
ROUNDING_FLOOR = 32 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class ReplayProblem:
    """The replay loss of one batch as a function of x, of shape (visual tokens, hidden).

    ``call`` is the policy's decoder call on the columns that hold the candidates, ``features`` are
    what x is added to. ``kept``, of each sample, is the x of its first visual tokens, found before,
    which is not changed any more; None where there is none. With ``recompute`` the decoder layers
    keep their inputs only, and run once more in the backward pass; with ``graph`` a step is
    recorded as a CUDA graph. ``initial`` (visual tokens, hidden) is the x that the descent begins
    from elsewhere, 0 where None, and ``plain`` (samples,) then the loss without it
    (:meth:`begun_at`).
    """

    call: DecoderCall
    candidates: Candidates
    features: VisualFeatures
    targets: ReplayTargets
    config: ReplayConfig
    kept: Sequence[Tensor | None] = field(default=(), kw_only=True)
    recompute: bool = field(default=False, kw_only=True)
    graph: bool = field(default=False, kw_only=True)
    initial: Tensor | None = field(default=None, kw_only=True)
    plain: Tensor | None = field(default=None, kw_only=True)

    @torch.no_grad()
    def begun_at(self, x: Tensor) -> "ReplayProblem":
        """Return the problem that begins at ``x`` (visual tokens, hidden) in each sample whose loss
        that lowers, and at 0 in the others."""
        plain = self.losses(self.beginning[0])
        tried = replace(self, initial=x)
        lower = tried.losses(tried.beginning[0]) < plain
        initial = torch.where(lower[self.owner, None], x, 0)
        return replace(self, initial=initial, plain=plain)

    @cached_property
    def beginning(self) -> tuple[Tensor, Tensor]:
        """The x (visual tokens, hidden) to begin with, and which tokens (visual tokens,) hold it.

        Raises:
            UsageError: more is kept than a sample has visual tokens.
        """
        delta = torch.zeros_like(self.features.flat, dtype=self.dtype)
        if self.initial is not None:
            delta = self.initial.to(delta, copy=True)
        held = torch.zeros(len(delta), dtype=torch.bool, device=delta.device)
        for sample, kept in enumerate(self.kept):
            if kept is not None:
                mine = torch.nonzero(self.owner == sample).squeeze(-1)
                if len(kept) > len(mine):
                    raise UsageError(
                        f"sample {sample} has {len(mine)} visual tokens, fewer than the "
                        f"{len(kept)} whose x is kept"
                    )
                delta[mine[: len(kept)]] = kept.to(delta)
                held[mine[: len(kept)]] = True
        return delta, held

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of x and of all that is computed from the activations."""
        return arithmetic(self.config, self.features.flat.dtype)

    @property
    def owner(self) -> Tensor:
        """The sample (visual tokens,) that each row of x belongs to."""
        return self._place[0]

    @cached_property
    def _place(self) -> tuple[Tensor, Tensor]:
        """Row and column (visual tokens,) in the padded prompts of each row of x."""
        row, column = torch.nonzero(self.features.positions, as_tuple=True)
        return row, column

    @property
    def floor(self) -> Tensor:
        """The loss (samples,) below which a sample's divergence is only rounding."""
        layers = len(self.targets.layers)
        return ROUNDING_FLOOR * layers / self.candidates.visual.clamp(min=1)

    def changed(self, delta: Tensor) -> Tensor:
        """Return, per sample, the fraction of feature elements that ``delta`` really changes."""
        per_token = (self.features.moved(delta) != self.features.flat).float().mean(-1)
        return masked_mean(per_token, self.owner, self.candidates.samples)

    def losses(self, delta: Tensor) -> Tensor:
        """Return each sample's loss (samples,) in nats, differentiable in ``delta``.

        Each layer's mean has the dtype of x; they are summed over layers and divided by N in
        float32 at least, as the release does, whose sum begins with a float32 zero.
        """
        wide = torch.promote_types(self.dtype, torch.float32)
        total = torch.zeros(self.candidates.samples, dtype=wide, device=delta.device)
        if not self.targets.layers:
            return total
        embeds = self.call.embeds
        row, column = self._place
        where = row.to(embeds.device), (column - self.call.start).to(embeds.device)
        embeds = embeds.index_put(where, self.features.moved(delta).to(embeds))
        states = self._policy_states(embeds)
        for layer, target in self.targets.layers.items():
            total = total + self._layer_loss(states[layer][target.index], target)
        return total / self.candidates.visual.clamp(min=1)

    @property
    def depth(self) -> int:
        """How many of the policy's decoder layers a step runs."""
        if not self.targets.layers:
            return 0
        return max(self.targets.layers) + (self.config.side == "after")

    def lens_bytes(self) -> int:
        """Return the bytes that the lens keeps for a step's backward pass, by reading one layer."""
        if not self.targets.layers:
            return 0
        target = next(iter(self.targets.layers.values()))
        hidden = self.candidates.of(self.call.embeds, self.call)[target.index]
        with torch.enable_grad(), SavedBytes(self.call.anatomy.model.parameters()) as saved:
            self._layer_loss(hidden.detach().requires_grad_(), target)
        rows = sum(len(target.index) for target in self.targets.layers.values())
        return saved.total * rows // len(target.index)

    def _policy_states(self, embeds: Tensor) -> dict[int, Tensor]:
        """Return layer → (candidates, hidden) that is matched to the base after that layer."""
        layers, where = list(self.targets.layers), self.config.side
        states = self.call.activations(layers, where=where, embeds=embeds, recompute=self.recompute)
        return {layer: self.candidates.of(state, self.call) for layer, state in states.items()}

    def _layer_loss(self, hidden: Tensor, target: LayerTarget) -> Tensor:
        """Return, per sample, the mean KL over one layer's selected positions."""
        lens = Lens(self.call.anatomy, self.dtype)
        divergences = lens.divergence(hidden, target.log_probs, target.ids)
        owner = self.candidates.row[target.index]
        return masked_mean(divergences, owner, self.candidates.samples)
