"""x in one forward: a small map from the policy's visual features, learned by the replay loss.

The paper names amortisation as future work. The map sees the policy's features only, token by
token, so that nothing of the base is needed to use it: neither its vision tower nor its weights.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.nn import functional

from replay_core.config import START_FORMAT, Start
from replay_core.divergence import masked_mean
from replay_core.errors import UsageError
from replay_core.model.vision import VisualFeatures
from replay_core.outcome import Outcome, SampleReplay
from replay_core.problem import ReplayProblem


class Provenance(BaseModel):
    """What a map was learned from and how: all that its numbers depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair: str = Field(description="the pair's name")
    policy_revision: str = Field(description="the policy's checkpoint")
    base_revision: str = Field(description="the base's checkpoint")
    dtype: str = Field(description="the policy's dtype")
    task: str = Field(description="whose prompts it was learned on; no answer of theirs was read")
    documents: tuple[int, int] = Field(description="the first and the last of them")
    n: int = Field(description="how many")
    config: dict[str, Any] = Field(description="the settings of the loss")
    width: int = Field(description="hidden units")
    epochs: int = Field(description="passes over the prompts")
    learning_rate: float = Field(description="the largest one of Adam")
    seed: int = Field(description="of the first weights and the order of the prompts")
    losses: tuple[float, ...] = Field(description="mean loss on these prompts by epoch, in nats")
    versions: dict[str, str] = Field(description="of this package, torch and transformers")


class Amortised(nn.Module):
    """x (visual tokens, hidden) as a function of the policy's visual features, token by token.

        x(f) = s · (D silu(U (f - m) / s + u) + d)

    ``m`` (hidden,) is the features' mean and s their deviation, over the prompts that it was
    learned on. A fresh one gives 0. In float32.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(hidden, width), nn.Linear(width, hidden)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        self.register_buffer("mean", torch.zeros(hidden))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return x for ``features`` (visual tokens, hidden)."""
        seen = (features.float() - self.mean) / self.deviation
        x: Tensor = self.deviation * self.down(functional.silu(self.up(seen)))
        return x

    def taken(self, features: VisualFeatures) -> tuple[Tensor, tuple[SampleReplay, ...]]:
        """Return x (visual tokens, hidden) for a batch as it is, and what it does to each sample.

        A sample whose x is not finite is left alone. No loss is known, since no base is asked.
        """
        x = self(features.flat)
        owner, _ = torch.nonzero(features.positions, as_tuple=True)
        samples = len(features.positions)
        bad = torch.zeros(samples, dtype=torch.bool, device=x.device)
        bad[owner[~x.isfinite().all(-1)]] = True
        x = torch.where(bad[owner, None], 0, x)
        changed = (features.moved(x) != features.flat).float().mean(-1)
        parts = (changed, features.flat.float().norm(dim=-1), x.norm(dim=-1))
        means = [masked_mean(part, owner, samples).tolist() for part in parts]
        counts = torch.bincount(owner, minlength=samples).tolist()
        described = []
        for visual, poisoned, *mean in zip(counts, bad.tolist(), *means, strict=True):
            if visual == 0:
                outcome = Outcome.NO_VISUAL_TOKENS
            elif poisoned:
                outcome = Outcome.NON_FINITE
            else:
                outcome = Outcome.APPLIED if mean[0] > 0 else Outcome.NO_EFFECT
            norms = dict(zip(("changed_fraction", "feature_norm", "delta_norm"), mean, strict=True))
            described.append(SampleReplay(outcome, visual, **norms))
        return x, tuple(described)

    def save(self, path: Path, provenance: Provenance) -> None:
        """Write the map to a safetensors file, with where it comes from."""
        tensors = {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        notes = {"format": START_FORMAT, "provenance": provenance.model_dump_json()}
        save_file(tensors, path, metadata=notes)

    @classmethod
    def load(cls, start: Start) -> tuple["Amortised", Provenance]:
        """Return a map and where it comes from.

        Raises:
            UsageError: the file is not the one that was named, or is damaged.
        """
        try:
            content = Path(start.path).read_bytes()
            if Start.model_validate(start.path).digest != start.digest:
                raise ValueError("it was written anew since it was named")
            tensors = load(content)
            width, hidden = tensors["up.weight"].shape
            found = cls(hidden, width)
            found.load_state_dict(tensors)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            provenance = header["__metadata__"]["provenance"]
            return found.requires_grad_(False), Provenance.model_validate_json(provenance)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"start={start.path} cannot be used ({reason})") from error


def start_of(start: Start, policy_revision: str, base_revision: str | None = None) -> Amortised:
    """Return the map in a file, which was learned for these checkpoints.

    Without ``base_revision`` any base will do, as where none is asked.

    Raises:
        UsageError: it was learned for other checkpoints, or the file is damaged.
    """
    found, learned = Amortised.load(start)
    parts = {"policy": (learned.policy_revision, policy_revision)}
    if base_revision is not None:
        parts["base"] = (learned.base_revision, base_revision)
    for role, (theirs, ours) in parts.items():
        if theirs != ours:
            raise UsageError(
                f"start={start.path} was learned for another {role} ({theirs} of the pair "
                f"{learned.pair}, not {ours}); learn one with `activation-replay amortise`"
            )
    return found


def learn(
    problems: Sequence[ReplayProblem],
    *,
    width: int = 256,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    seed: int = 0,
    after_epoch: Callable[[], object] = lambda: None,
) -> tuple[Amortised, tuple[float, ...]]:
    """Return a map that lowers the loss of these batches, and the mean loss of every epoch.

    No label is read: the replay loss itself is minimised over the map's weights, by Adam with one
    cycle of the learning rate. A batch whose gradient is not finite is passed over.
    """
    flat = torch.cat([problem.features.flat.float() for problem in problems])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        amortised = Amortised(flat.shape[1], width)
    amortised.mean, amortised.deviation = flat.mean(0).cpu(), flat.std().cpu()
    amortised.to(flat.device)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(amortised.parameters(), lr=learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * len(problems)
    )
    means = []
    with torch.enable_grad():
        for _ in range(epochs):
            spent = []
            for number in torch.randperm(len(problems), generator=order).tolist():
                problem = problems[number]
                losses = problem.losses(amortised(problem.features.flat).to(problem.dtype))
                optimizer.zero_grad()
                losses.mean().backward()
                gradients = [p.grad for p in amortised.parameters() if p.grad is not None]
                if all(bool(gradient.isfinite().all()) for gradient in gradients):
                    optimizer.step()
                    cycle.step()
                    spent.append(losses.detach())
            means.append(float(torch.cat(spent).mean()) if spent else float("nan"))
            after_epoch()
    return amortised.requires_grad_(False).eval(), tuple(means)
