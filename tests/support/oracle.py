"""Activation Replay spelled out for one unpadded sample: the judge of the real implementation.

Slow on purpose: at every step the whole policy runs from its pixels, nothing is cached and nothing
stops early. It shares no code and no route with ``replay_core``:

- x reaches the model through a forward pre-hook on the text decoder, which adds it to the input
  embeddings the model itself built from pixels (never through ``mm_encoder_outputs``);
- activations come from plain hooks on the decoder layers (Qwen3-VL adds its deepstack features
  behind the first layers: they are not in "after layer l", but in "before layer l + 1");
- entropy and KL are those of ``torch.distributions``, on ``head(norm(h))`` spelled out.

Symbols: N visual positions in prompt order (images and videos alike), C candidate positions
(C = N unless ``candidates="input"``), S prompt length, H hidden size, V vocabulary. Layers are
0-based; "after layer l" is the output of decoder layer l, "before layer l" is its input.
Entropies, divergences and losses are in nats.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional
from transformers import PreTrainedModel

Boundary = Literal["aligned", "reference"]
Select = Literal["low", "high", "all"]
Candidates = Literal["visual", "input"]
MaximumOver = Literal["sample", "image"]


@dataclass(frozen=True)
class OracleResult:
    """What one sample's replay should give.

    The maps are keyed by layer l; their rows are the C candidate positions in prompt order.
    """

    entropies: dict[int, Tensor]  # (C,) of the base after layer l, full vocabulary
    masks: dict[int, Tensor]  # (C,) bool: the positions that enter the loss
    losses: list[float]  # steps + 1 values: at x = 0, then after every update
    first_gradient: Tensor  # (N, H), d loss / d x at x = 0
    delta: Tensor  # (N, H), x after the last update
    features: Tensor  # (N, H), the policy's visual features at the decoder's input, model dtype
    deltas: list[Tensor]  # steps + 1 times (N, H): x at every entry of losses


@dataclass(frozen=True)
class Targets:
    """What one clean base pass leaves for the loss. Rows are candidate positions."""

    positions: Tensor  # (C,) indices into the prompt
    entropies: dict[int, Tensor]  # (C,)
    masks: dict[int, Tensor]  # (C,) bool
    logits: dict[int, Tensor]  # (C, V) lens of the base after layer l


def oracle_replay(
    policy: PreTrainedModel,
    base: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    *,
    boundary: Boundary,
    top_k: int | None,
    layers: Sequence[int],
    threshold: float,
    step_size: float,
    steps: int,
    select: Select = "low",
    candidates: Candidates = "visual",
    maximum_over: MaximumOver = "sample",
    masks: Mapping[int, Tensor] | None = None,
) -> OracleResult:
    """Return the loss curve and the delta of ``steps`` plain descent steps x <- x - alpha * grad.

    ``top_k=None`` is the whole vocabulary. ``threshold`` is gamma, ``step_size`` alpha.
    ``masks`` replaces the masks (for ``select="random"``: hand in those that were drawn);
    entropies are reported all the same. Where every mask is empty, losses and x are 0.

    Raises ValueError for a padded or batched input, a prompt without visual positions, a layer
    the decoder does not have, and the last layer with ``boundary="reference"``.
    """
    _check(policy, inputs, layers, boundary)
    targets = oracle_targets(
        base,
        inputs,
        layers=layers,
        threshold=threshold,
        boundary=boundary,
        select=select,
        candidates=candidates,
        maximum_over=maximum_over,
    )
    if masks is not None:
        targets = Targets(targets.positions, targets.entropies, dict(masks), targets.logits)

    features = oracle_features(policy, inputs)
    x = torch.zeros(features.shape, dtype=_arithmetic(policy, boundary), device=features.device)
    losses, deltas = [], []
    first_gradient = torch.zeros_like(x)
    for step in range(steps + 1):
        loss, gradient = oracle_gradient(policy, inputs, x, targets, boundary=boundary, top_k=top_k)
        losses.append(loss)
        deltas.append(x)
        if step == 0:
            first_gradient = gradient
        if step < steps:
            x = x - step_size * gradient
    return OracleResult(
        entropies=targets.entropies,
        masks=targets.masks,
        losses=losses,
        first_gradient=first_gradient,
        delta=x,
        features=features,
        deltas=deltas,
    )


def oracle_targets(
    base: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    *,
    layers: Sequence[int],
    threshold: float,
    boundary: Boundary = "aligned",
    select: Select = "low",
    candidates: Candidates = "visual",
    maximum_over: MaximumOver = "sample",
) -> Targets:
    """Return entropies, masks and lens logits of the base, after each of ``layers``, x absent.

    low: e <= gamma * max(e), the maximum over the sample's candidates (or over those of the same
    image, ``maximum_over="image"``); high: the complement; all: every candidate.
    """
    if candidates == "visual":
        positions = visual_positions(base, inputs)
        group = image_numbers(base, inputs)
    else:
        ids = inputs["input_ids"]
        positions = torch.arange(ids.shape[1], device=ids.device)
        group = torch.zeros_like(positions)
    if maximum_over == "sample":
        group = torch.zeros_like(positions)
    elif candidates == "input":
        raise ValueError("maximum_over='image' is undefined for candidates='input'")

    with torch.no_grad(), _capture(base) as seen:
        base(**inputs, use_cache=False)
    lens = _lens(base, _arithmetic(base, boundary))

    entropies, masks, logits = {}, {}, {}
    for layer in layers:
        with torch.no_grad():
            logits[layer] = lens(seen.after[layer][0, positions])
            entropies[layer] = Categorical(logits=logits[layer]).entropy()
        low = torch.zeros_like(positions, dtype=torch.bool)
        for number in group.unique():
            same = group == number
            low[same] = entropies[layer][same] <= threshold * entropies[layer][same].max()
        masks[layer] = {"low": low, "high": ~low, "all": torch.ones_like(low)}[select]
    return Targets(positions, entropies, masks, logits)


def oracle_loss(
    policy: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    delta: Tensor,
    targets: Targets,
    *,
    boundary: Boundary,
    top_k: int | None,
) -> Tensor:
    """Return the replay loss at x = ``delta``, a scalar in nats that can be differentiated.

    (1 / N) * sum over layers l with a non-empty mask of the mean over masked positions i of
    KL(base[l, i] || policy[l, i]), both renormalised over the base's ``top_k`` ids. The policy is
    read after layer l ("aligned") or before layer l ("reference").
    """
    number = len(visual_positions(policy, inputs))
    with _added(policy, inputs, delta), _capture(policy) as seen:
        policy(**inputs, use_cache=False)
    lens = _lens(policy, _arithmetic(policy, boundary))

    # A graph even where every mask is empty. In float32 as the release sums: its layers are added
    # to a float32 zero, and only their means are in the dtype of the model.
    loss = 0.0 * delta.sum().float()
    for layer, mask in targets.masks.items():
        if not mask.any():
            continue
        states = seen.after[layer] if boundary == "aligned" else seen.before[layer]
        policy_logits = lens(states[0, targets.positions[mask]])
        base_logits = targets.logits[layer][mask]
        if top_k is not None:
            support = base_logits.topk(top_k, dim=-1).indices
            policy_logits = policy_logits.gather(-1, support)
            base_logits = base_logits.gather(-1, support)
        drift = kl_divergence(Categorical(logits=base_logits), Categorical(logits=policy_logits))
        loss = loss + drift.mean()
    return loss / number


def oracle_gradient(
    policy: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    delta: Tensor,
    targets: Targets,
    *,
    boundary: Boundary,
    top_k: int | None,
) -> tuple[float, Tensor]:
    """Return the loss at x = ``delta`` and d loss / d x, (N, H) in delta's dtype."""
    with torch.enable_grad():
        x = delta.detach().clone().requires_grad_()
        loss = oracle_loss(policy, inputs, x, targets, boundary=boundary, top_k=top_k)
        (gradient,) = torch.autograd.grad(loss, x)
    return loss.item(), gradient


def oracle_logits(policy: PreTrainedModel, inputs: Mapping[str, Tensor], delta: Tensor) -> Tensor:
    """Return the policy's logits, (1, S, V), with ``delta`` (N, H) on its visual features."""
    with torch.no_grad(), _added(policy, inputs, delta):
        return policy(**inputs, use_cache=False).logits


def oracle_features(policy: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the visual features, (N, H), as they stand at the text decoder's input."""
    positions = visual_positions(policy, inputs)
    with torch.no_grad(), _capture(policy) as seen:
        policy(**inputs, use_cache=False)
    return seen.before[0][0, positions]


def visual_positions(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the prompt indices, (N,), of the image and video placeholder tokens, ascending."""
    ids = inputs["input_ids"][0]
    names = ("image_token_id", "video_token_id")
    tokens = [getattr(model.config, name) for name in names if hasattr(model.config, name)]
    placeholder = torch.isin(ids, torch.tensor(tokens, device=ids.device))
    return placeholder.nonzero().squeeze(-1)


def image_numbers(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return for every visual position, (N,), the number of its image in prompt order.

    An image is an unbroken run of placeholders: the wire format puts text tokens between two.
    """
    positions = visual_positions(model, inputs)
    starts = torch.ones_like(positions)
    starts[1:] = positions[1:] != positions[:-1] + 1
    return starts.cumsum(0) - 1


def _arithmetic(model: PreTrainedModel, boundary: Boundary) -> torch.dtype:
    """Return the dtype of lens, softmax, KL and x: float32, or the model's for "reference"."""
    return torch.float32 if boundary == "aligned" else model.dtype


def _lens(model: PreTrainedModel, dtype: torch.dtype) -> _Lens:
    norm = copy.deepcopy(model.get_decoder().norm).to(dtype)
    head = model.get_output_embeddings()
    bias = None if head.bias is None else head.bias.to(dtype)
    return _Lens(norm, head.weight.to(dtype), bias, dtype)


@dataclass(frozen=True)
class _Lens:
    """head(norm(h)) with the model's own weights, all of it in one dtype."""

    norm: nn.Module
    weight: Tensor  # (V, H)
    bias: Tensor | None  # (V,)
    dtype: torch.dtype

    def __call__(self, states: Tensor) -> Tensor:
        """Return the lens logits, (positions, V), of ``states``, (positions, H)."""
        return functional.linear(self.norm(states.to(self.dtype)), self.weight, self.bias)


@dataclass(frozen=True)
class _Seen:
    """Activations of one forward pass, (1, S, H) each, in the model's dtype."""

    before: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def _capture(model: PreTrainedModel) -> Iterator[_Seen]:
    """Record the input and the output of every decoder layer while inside."""
    seen = _Seen()
    handles = []

    def before(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.before[layer] = args[0]

        return hook

    def after(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.after[layer] = output

        return hook

    try:
        for layer, module in enumerate(model.get_decoder().layers):
            handles.append(module.register_forward_pre_hook(before(layer)))
            handles.append(module.register_forward_hook(after(layer)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _added(model: PreTrainedModel, inputs: Mapping[str, Tensor], delta: Tensor) -> Iterator[None]:
    """Add ``delta`` to the decoder's input embeddings at the visual positions while inside.

    The sum is formed in the wider of the two dtypes and rounded once, to the model's.
    """
    positions = visual_positions(model, inputs)
    if delta.shape[0] != len(positions):
        raise ValueError(f"delta has {delta.shape[0]} rows for {len(positions)} visual positions")

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeddings = kwargs["inputs_embeds"].clone()  # (1, S, H)
        steered = embeddings[0, positions] + delta
        embeddings[0, positions] = steered.to(embeddings.dtype)
        return args, {**kwargs, "inputs_embeds": embeddings}

    handle = model.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _check(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], layers: Sequence[int], boundary: Boundary
) -> None:
    if inputs["input_ids"].shape[0] != 1 or not inputs["attention_mask"].bool().all():
        raise ValueError("the oracle takes one unpadded sample")
    if not len(visual_positions(model, inputs)):
        raise ValueError("the prompt has no visual positions")
    if boundary not in ("aligned", "reference"):
        raise ValueError(f"boundary {boundary!r} is neither 'aligned' nor 'reference'")
    count = len(model.get_decoder().layers)
    bad = [layer for layer in layers if not 0 <= layer < count]
    if bad:
        raise ValueError(f"layers {bad} not in 0..{count - 1}")
    if boundary == "reference" and count - 1 in layers:
        raise ValueError(f"layer {count - 1} is the last one: 'reference' refuses it")
