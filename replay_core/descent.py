"""The loop that minimises the replay loss over x, and how it ended for each sample.

x ← x - α ∂L/∂x, from x = 0, or from what is kept of an earlier x; or as another optimiser moves it
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from replay_core.divergence import masked_mean
from replay_core.model.graphs import Replayed
from replay_core.optimizers import OPTIMIZERS, Optimizer, Scale
from replay_core.outcome import Outcome, SampleReplay
from replay_core.problem import ReplayProblem
from replay_core.seeds import generators


@dataclass(frozen=True)
class Descent:
    """The end of the loop: x (visual tokens, hidden), 0 where a sample is not steered, and for each
    sample its loss at every iterate, the loss at the loop's own choice of x (also where that was
    then rejected), its outcome, and the steps (samples,) after which it left the loop."""

    delta: Tensor
    losses: Tensor
    loss_after: Tensor
    outcomes: tuple[Outcome, ...]
    steps: Tensor


# An accelerator is waited for only where the loop looks whether any sample is left.
_LOOK_EVERY = 5


def descend(
    problem: ReplayProblem, optimizer: Callable[[Scale], Optimizer] | None = None
) -> Descent:
    """Minimise the loss over x from 0, by plain gradient descent or as ``config.optimizer`` says.

    ``optimizer`` stands in for the one of the settings. The loss is summed over the batch; outcome
    and stopping are each sample's own. A sample ends at once when its loss is rounding
    (``no_drift``), and leaves the loop when that is not finite or, with a tolerance, when two steps
    one after the other each changed it by no more than that share of what it was at x = 0. Where
    an earlier x is kept, the descent begins from it and moves the other tokens only; a sample that
    is not steered is left with it. Outcomes compare with the loss at x = 0, wherever the descent
    begins.
    """
    config, features = problem.config, problem.features.flat
    start, held = problem.beginning
    delta = start.clone()
    weight, rest = _weights(problem)
    owner = problem.owner
    empty = _without_target(problem)
    alive = torch.tensor([outcome is None for outcome in empty], device=features.device)
    history: list[Tensor] = []
    made = OPTIMIZERS[config.optimizer] if optimizer is None else optimizer
    moves = made(Scale(owner, weight, config.step_size * rest))
    steps = torch.full_like(problem.candidates.visual, config.steps)
    still = converged = torch.zeros_like(alive)

    def gradient_at() -> tuple[Tensor, Tensor]:
        """Return each sample's loss at x, and the gradient of their weighted sum: no sample's rows
        of it depend on another sample's loss."""
        leaf = delta.detach().requires_grad_()
        losses = problem.losses(leaf)
        if not losses.requires_grad:  # nothing is matched
            return losses, torch.zeros_like(delta)
        (gradient,) = torch.autograd.grad((weight * losses).sum(), leaf)
        return losses.detach(), gradient

    best, best_loss = delta.clone(), torch.full_like(alive, torch.inf, dtype=torch.float32)
    step_of = Replayed(gradient_at) if problem.graph else gradient_at
    for step in range(config.steps + 1):
        if step < config.steps:
            losses, gradient = step_of()
        else:
            with torch.no_grad():
                losses = problem.losses(delta)
        history.append(losses.clone())
        first = history[0] if problem.plain is None else problem.plain
        if step == 0 or not moves.safeguarded:
            alive = alive & losses.isfinite()
        if step == 0 and config.boundary == "aligned":
            alive = alive & (first > problem.floor)
        better = alive & (history[-1] < best_loss)
        best_loss = torch.where(better, history[-1], best_loss)
        best = torch.where(better[owner, None], delta, best)
        if config.tolerance > 0 and step > 0:
            small = (history[-1] - history[-2]).abs() <= config.tolerance * first
            ends = alive & ~converged & small & still
            steps = torch.where(ends, step, steps)
            converged, still = converged | ends, small
        going = (alive & ~converged)[owner] & ~held
        looks = step % _LOOK_EVERY == 0
        if step == config.steps or (looks and not going.any()):
            break
        broken = _count(~gradient.isfinite().all(-1), owner, alive) > 0
        alive = alive & ~(broken & better if moves.safeguarded else broken)
        moved = (going & alive[owner])[:, None]
        tried = moves.step(delta, history[-1], gradient.masked_fill(~moved, 0))
        delta.copy_(torch.where(moved, tried.to(delta), delta))
    steps = steps.clamp(max=len(history) - 1)
    keeps_best = config.keep == "best" or moves.safeguarded
    kept = best if keeps_best else delta
    curves = torch.stack(history, dim=1).float()
    after = best_loss.float() if keeps_best else curves.gather(1, steps[:, None])[:, 0]
    outcomes = _named(problem, empty, alive, curves, after, kept)
    steered = [
        outcome is Outcome.APPLIED
        or (outcome is Outcome.DIVERGED and config.boundary == "reference")
        for outcome in outcomes
    ]
    keep = torch.tensor(steered, device=kept.device)[owner, None]
    alone = torch.where(held[:, None], start, 0)
    return Descent(torch.where(keep, kept, alone), curves, after, tuple(outcomes), steps)


def _count(found: Tensor, owner: Tensor, like: Tensor) -> Tensor:
    """Return how many of the tokens (n,) that are ``found`` each sample has, (samples,)."""
    none = torch.zeros_like(like, dtype=torch.float32)
    return none.index_add(0, owner, found.float())


def randomised(problem: ReplayProblem, descent: Descent, seeds: Sequence[int]) -> Descent:
    """Return the descent with Gaussian noise of the same norm in the place of each token's x.

    ``seeds``, one per sample, draw the noise on the CPU. Outcomes stay those of the optimised x, so
    that the same samples are steered; where one is, its loss at the end is that of the noise.
    """
    noise = torch.zeros_like(descent.delta)
    for sample, generator in enumerate(generators(seeds, problem.candidates.samples)):
        mine = problem.owner == sample
        drawn = torch.randn(descent.delta[mine].shape, generator=generator, dtype=torch.float32)
        unit = drawn / drawn.norm(dim=-1, keepdim=True)
        norms = descent.delta[mine].float().norm(dim=-1, keepdim=True)
        noise[mine] = (unit.to(norms) * norms).to(noise.dtype)
    start, held = problem.beginning
    noise = torch.where(held[:, None], start, noise)
    with torch.no_grad():
        after = problem.losses(noise).float()
    steered = torch.bincount(problem.owner[noise.any(-1)], minlength=len(after)) > 0
    return replace(descent, delta=noise, loss_after=after.where(steered, descent.loss_after))


def _weights(problem: ReplayProblem) -> tuple[Tensor, float]:
    """Return what the losses (samples,) are multiplied by before the gradient, and α after it.

    A gradient of about 1/(N·|M|) lies below what float16 can hold, and N² above it. So the loss
    bears the N² where steps are scaled by tokens, and else a power of two near the batch's largest
    N, which α is divided by: it changes no digit of a gradient that can be held.
    """
    visual = problem.candidates.visual
    if problem.config.step_scaling == "tokens":
        return visual**2, 1.0
    scale = 2.0 ** int(visual.max()).bit_length()
    return torch.full_like(visual, scale, dtype=torch.float32), 1 / scale


def _without_target(problem: ReplayProblem) -> list[Outcome | None]:
    """Name the outcome of the samples that have nothing to match; None for the others.

    An entropy that is not a number lies below no threshold, so it would pass for a high one.
    """
    candidates = problem.candidates
    matched = torch.zeros(candidates.samples, dtype=torch.bool)
    for target in problem.targets.layers.values():
        matched[candidates.row[target.index].cpu()] = True
    poisoned = candidates.poisoned(problem.targets.entropies)
    outcomes: list[Outcome | None] = [None if some else Outcome.EMPTY_MASK for some in matched]
    for sample in range(candidates.samples):
        if candidates.visual[sample] == 0:
            outcomes[sample] = Outcome.NO_VISUAL_TOKENS
        elif poisoned[sample]:
            outcomes[sample] = Outcome.NON_FINITE
    return outcomes


def _named(
    problem: ReplayProblem,
    outcomes: Sequence[Outcome | None],
    alive: Tensor,
    curves: Tensor,
    after: Tensor,
    kept: Tensor,
) -> list[Outcome]:
    """Name every sample's outcome after the loop."""
    changed = problem.changed(kept)
    before = curves[:, 0] if problem.plain is None else problem.plain.float()
    named = []
    for sample, outcome in enumerate(outcomes):
        first, last = before[sample], after[sample]
        if outcome is not None:
            named.append(outcome)
        elif not alive[sample]:
            quiet = first.isfinite() and first <= problem.floor[sample]
            aligned = problem.config.boundary == "aligned"
            named.append(Outcome.NO_DRIFT if quiet and aligned else Outcome.NON_FINITE)
        elif last > first:
            named.append(Outcome.DIVERGED)
        else:
            named.append(Outcome.APPLIED if changed[sample] > 0 else Outcome.NO_EFFECT)
    return named


def describe(problem: ReplayProblem, descent: Descent) -> tuple[SampleReplay, ...]:
    """Return what is known of every sample of the batch."""
    owner, samples = problem.owner, problem.candidates.samples
    changed = problem.changed(descent.delta)
    feature_norm = masked_mean(problem.features.flat.float().norm(dim=-1), owner, samples)
    delta_norm = masked_mean(descent.delta.float().norm(dim=-1), owner, samples)
    none = problem.owner.new_empty(0)
    matched = {layer: target.index for layer, target in problem.targets.layers.items()}
    masked = problem.candidates.shares(
        {layer: matched.get(layer, none) for layer in problem.targets.entropies}
    )
    described = []
    for sample, outcome in enumerate(descent.outcomes):
        n = int(problem.candidates.visual[sample])
        if outcome in (Outcome.NO_VISUAL_TOKENS, Outcome.EMPTY_MASK):
            described.append(SampleReplay(outcome, n, masked_fraction=masked[sample]))
            continue
        # A sample may leave the loop, whatever its batch goes on to do.
        left = 0 if outcome is Outcome.NO_DRIFT else int(descent.steps[sample])
        curve = descent.losses[sample, : left + 1]
        described.append(
            SampleReplay(
                outcome,
                n,
                losses=tuple(curve.tolist()),
                loss_after=float(curve[0] if len(curve) == 1 else descent.loss_after[sample]),
                loss_plain=None if problem.plain is None else float(problem.plain[sample]),
                masked_fraction=masked[sample],
                changed_fraction=float(changed[sample]),
                feature_norm=float(feature_norm[sample]),
                delta_norm=float(delta_norm[sample]),
            )
        )
    return tuple(described)
