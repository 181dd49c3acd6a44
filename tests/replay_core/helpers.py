"""What the core's tests share: loaded tiny pairs, the oracle's arguments, counts and snapshots."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from replay_core import Pair, ReplayConfig, ReplayResult, ReplayTargets, Steered
from replay_core.candidates import Candidates
from replay_core.model.vision import VisualFeatures
from replay_core.problem import ReplayProblem
from replay_core.targets import LayerTarget
from tests.support import oracle, tiny


@dataclass(frozen=True, repr=False)  # pytest prints it at every failure
class Loaded:
    """A tiny pair, loaded once for the session; tests leave it as they found it."""

    pair: Pair
    processor: ProcessorMixin
    folders: tiny.TinyPair

    @property
    def policy(self) -> PreTrainedModel:
        return self.pair.policy.model

    @property
    def base(self) -> PreTrainedModel:
        return self.pair.base.model

    def batch(self, name: str, side: tiny.PaddingSide = "left") -> BatchFeature:
        return tiny.make_batch(self.processor, name, padding_side=side)

    def singles(self, name: str) -> list[BatchFeature]:
        return tiny.make_singles(self.processor, name)

    def swapped(self) -> Pair:
        return replace(self.pair, policy=self.pair.base, base=self.pair.policy)


def from_nowhere(loaded: Loaded) -> PreTrainedModel:
    """Return a model of the same class and size that was not loaded from a folder."""
    config = copy.deepcopy(loaded.policy.config)
    config.name_or_path = ""
    return type(loaded.policy)(config)


def stable(boundary: str = "aligned", **changes: Any) -> ReplayConfig:
    """Return the settings at which the tiny pairs can be compared with the oracle."""
    return ReplayConfig(boundary=boundary, **{**vars(tiny.STABLE[boundary]), **changes})


def run(pair: Pair | Loaded, inputs: Mapping[str, Tensor], config: ReplayConfig) -> ReplayResult:
    return Steered(pair if isinstance(pair, Pair) else pair.pair, config).optimise(inputs)


def judge(
    loaded: Loaded,
    inputs: Mapping[str, Tensor],
    config: ReplayConfig,
    masks: Mapping[int, Tensor] | None = None,
) -> oracle.OracleResult:
    """Return what the oracle finds for one sample with the settings of ``config``."""
    return oracle.oracle_replay(
        loaded.policy,
        loaded.base,
        inputs,
        boundary=config.boundary,
        top_k=None if config.top_k == "full" else config.top_k,
        layers=config.layers,
        threshold=config.threshold,
        step_size=config.step_size,
        steps=config.steps,
        select="low" if config.select == "random" else config.select,
        candidates=config.positions,
        masks=masks,
    )


def outcomes(result: ReplayResult) -> list[str]:
    return [sample.outcome.value for sample in result.samples]


def rows_of(result: ReplayResult) -> list[Tensor]:
    """Return x sample by sample."""
    return list(result.delta.split([sample.visual_tokens for sample in result.samples]))


def masks_of(targets: ReplayTargets, owner: Tensor) -> list[dict[int, Tensor]]:
    """Return, sample by sample, layer → mask over its candidates; ``owner`` is whose they are."""
    masks: list[dict[int, Tensor]] = [{} for _ in range(int(owner.max()) + 1)]
    for layer, entropies in targets.entropies.items():
        chosen = torch.zeros_like(entropies, dtype=torch.bool)
        if layer in targets.layers:
            chosen[targets.layers[layer].index] = True
        for sample, mine in enumerate(masks):
            mine[layer] = chosen[owner == sample]
    return masks


def owner_of(inputs: Mapping[str, Tensor], positions: str = "visual") -> Tensor:
    """Return which sample each candidate of a batch belongs to."""
    real = inputs["mm_token_type_ids"] > 0 if positions == "visual" else inputs["attention_mask"]
    return torch.nonzero(real)[:, 0]


def gap(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected|, in norms."""
    return float((actual - expected).norm() / expected.norm())


def greedy(**more: Any) -> dict[str, Any]:
    return {"max_new_tokens": 6, "do_sample": False, **more}


def told(**more: Any) -> dict[str, Any]:
    """Return the options of a greedy answer that comes with its logits."""
    return greedy(output_logits=True, return_dict_in_generate=True, **more)


def same_answer(actual: Any, expected: Any) -> bool:
    """Return whether two answers made with :func:`told` are equal, bit for bit."""
    return torch.equal(actual.sequences, expected.sequences) and all(
        torch.equal(a, e) for a, e in zip(actual.logits, expected.logits, strict=True)
    )


@contextlib.contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Remove the given hooks at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def doubled_logits(model: PreTrainedModel) -> Iterator[None]:
    """Make a model return twice the logits that its head gives."""

    def double(module: nn.Module, args: Any, output: Any) -> Any:
        output["logits"] = 2 * output["logits"]
        return output

    with hooked([model.register_forward_hook(double)]):
        yield


@contextlib.contextmanager
def counted(**modules: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Note, for every completed or started call of a module, how many tokens it was given.

    Yields name → one entry per call; entries are 0 where the call shows no hidden states.
    """
    seen: dict[str, list[int]] = {name: [] for name in modules}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs.get("hidden_states", kwargs.get("inputs_embeds"))
            many = isinstance(hidden, Tensor) and hidden.ndim == 3
            seen[name].append(hidden.shape[1] if many else 0)

        return note

    with hooked(
        [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in modules.items()]
    ):
        yield seen


def state_of(*models: PreTrainedModel) -> list[Any]:
    """Return hooks, training flags and wishes for gradients of everything in the models."""
    state: list[Any] = []
    for model in models:
        for name, module in model.named_modules():
            hooks = (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
            state.append((name, module.training, [len(kind) for kind in hooks]))
            state.append((name, "forward" in vars(module)))
        for name, parameter in model.named_parameters():
            state.append((name, parameter.requires_grad, parameter.grad is None, parameter.dtype))
    return state


@dataclass(frozen=True)
class Toy(ReplayProblem):
    """Samples of one token, their losses start + slope * sum(x) + curve / 2 * |x|^2."""

    curve: Tensor
    slope: Tensor
    start: Tensor

    def losses(self, delta: Tensor) -> Tensor:
        x = delta.double()
        return (self.start + self.slope * x.sum(1) + self.curve / 2 * x.square().sum(1)).to(
            delta.dtype
        )


def toy(config: ReplayConfig, *, curve: Any, slope: Any, start: Any, tokens: int = 1) -> Toy:
    samples = len(curve)
    each = torch.arange(samples)
    features = VisualFeatures({}, {}, torch.ones(samples, 2), torch.ones(samples, 1).bool())
    target = LayerTarget(each, torch.zeros(samples, 1), None)
    targets = ReplayTargets({0: target}, {0: torch.ones(samples)}, "", "")
    candidates = Candidates(each, each, each, torch.full((samples,), tokens))
    values = [torch.tensor(v, dtype=torch.float64) for v in (curve, slope, start)]
    return Toy(None, candidates, features, targets, config, *values)
