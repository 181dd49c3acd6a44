"""A pair: the RLVR policy that answers, and the base it was trained from."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from replay_core.errors import UsageError
from replay_core.model.anatomy import Anatomy, anatomy_of, check_doors
from replay_core.pair.identity import checkpoint_revision, revision_of
from replay_core.pair.loading import load_config, load_model
from replay_core.pair.lora import (
    adapted_base,
    adapter_layers,
    add_adapter,
    check_switchable,
    without_adapter,
)
from replay_core.pair.quantisation import Quantization


@dataclass(frozen=True)
class Pair:
    """A policy and its base, checked against each other; see :func:`make_pair`.

    ``shared_vision``: the two vision towers have equal weights, so that features are computed once.
    ``adapted``: both are one set of weights, and the policy is its LoRA adapter.
    """

    policy: Anatomy
    base: Anatomy
    shared_vision: bool
    adapted: bool = False
    name: str = ""
    policy_revision: str = ""
    base_revision: str = ""

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Let the base's model be the base inside the block: its adapter, if any, is off."""
        with without_adapter(self.base.model) if self.adapted else nullcontext():
            yield


def make_pair(
    policy: PreTrainedModel, base: PreTrainedModel | None = None, *, name: str = ""
) -> Pair:
    """Return the pair of two loaded models, after checking that they belong together.

    Without ``base``, ``policy`` is a model that carries a LoRA adapter, and its base is the same
    model with the adapter off. Nothing is changed in either model.

    Raises:
        UsageError: they differ in architecture, hidden size, layers or vocabulary, one of them
            has no doors that replay can use, or ``policy`` carries no adapter and there is no base.
    """
    if base is None:
        check_switchable(policy)
        return _adapted_pair(policy, name)
    check_configs(policy.config, base.config, _named(policy), _named(base))
    ours, theirs = anatomy_of(policy), anatomy_of(base)
    for anatomy in {id(part.model): part for part in (ours, theirs)}.values():
        check_doors(anatomy)
    return Pair(
        ours,
        theirs,
        _equal_vision(policy, base),
        name=name or _named(policy),
        policy_revision=revision_of(policy),
        base_revision=revision_of(base),
    )


def _adapted_pair(model: PreTrainedModel, name: str) -> Pair:
    if not adapter_layers(model):
        raise UsageError(
            f"{_named(model)} carries no LoRA adapter, so it needs a base (allowed: a second "
            "model, or a model with a peft adapter)"
        )
    anatomy = anatomy_of(model)
    check_doors(anatomy)
    with without_adapter(model):
        check_doors(anatomy)
    text = {id(module) for module in model.get_decoder().modules()}
    shared = all(id(layer) in text for layer in adapter_layers(model))
    revision = revision_of(model)
    return Pair(
        anatomy,
        anatomy,
        shared,
        adapted=True,
        name=name or _named(model),
        policy_revision=revision,
        base_revision=revision,
    )


def check_configs(
    policy: PretrainedConfig, base: PretrainedConfig, policy_name: str, base_name: str
) -> None:
    """Check, before any weights are read, that two checkpoints can be a pair.

    Raises:
        UsageError: with both values of the first fact in which they differ.
    """
    facts = {"model_type": "architecture"}
    text_facts = {
        "hidden_size": "hidden size",
        "num_hidden_layers": "number of layers",
        "vocab_size": "vocabulary size",
    }
    ours, theirs = policy.get_text_config(), base.get_text_config()
    rows = [(label, getattr(policy, key), getattr(base, key)) for key, label in facts.items()]
    rows += [(label, getattr(ours, key), getattr(theirs, key)) for key, label in text_facts.items()]
    for label, mine, other in rows:
        if mine != other:
            raise UsageError(
                f"policy {policy_name} and base {base_name} are not a pair: their {label} differs "
                f"({mine} and {other}; it must be equal)"
            )


def load_pair(
    policy: str | Path,
    base: str | Path | None = None,
    *,
    dtype: torch.dtype | str = "auto",
    device_map: Any = None,
    attn_implementation: str | None = None,
    base_layers: int | None = None,
    base_device_map: Any = None,
    base_quantization: Quantization | None = None,
    name: str = "",
) -> Pair:
    """Load a pair from two checkpoints, each once, or from a LoRA adapter and its base.

    ``policy`` may be a folder, or hub id, that peft saved a LoRA adapter to, and ``base`` may be
    left out: then one model is loaded, whose adapter is off where the base is asked, and the base
    by itself only where the adapter changed weights of the base (see :func:`add_adapter`).
    ``base_layers`` drops the base's decoder layers from that one on: replay never runs them, and
    they take memory. A base loaded so cannot answer by itself. ``base_device_map`` puts the base
    elsewhere, ``base_quantization`` loads its decoder in 8 or 4 bits.

    Raises:
        UsageError: a checkpoint is missing, the two are not a pair, or a LoRA pair is asked for a
            base of its own.
    """
    trained_on = adapted_base(policy)
    how = {"dtype": dtype, "device_map": device_map, "attn_implementation": attn_implementation}
    if trained_on is not None:
        if base_device_map is not None or base_quantization is not None:
            raise UsageError(
                f"{policy} is a LoRA adapter, which shares its weights with its base: the base can "
                "have no device or quantisation of its own"
            )
        return _load_adapted(policy, base or trained_on, how, base_layers, name)
    if base is None:
        raise UsageError(f"{policy} is no LoRA adapter, so a base must be named")
    check_configs(load_config(policy), load_config(base), str(policy), str(base))
    ours = load_model(policy, **how)
    elsewhere = {} if base_device_map is None else {"device_map": base_device_map}
    theirs = load_model(base, **{**how, **elsewhere}, quantization=base_quantization)
    pair = _trimmed(make_pair(ours, theirs, name=name), base_layers)
    return replace(
        pair,
        policy_revision=checkpoint_revision(policy),
        base_revision=checkpoint_revision(base),
    )


def _load_adapted(
    policy: str | Path, base: str | Path, how: dict[str, Any], base_layers: int | None, name: str
) -> Pair:
    """Load a LoRA adapter onto its base, and the base again where the adapter changed it."""
    model = load_model(base, **how)
    name = name or Path(policy).name
    if add_adapter(model, policy):
        pair = _adapted_pair(model, name)
    else:
        pair = _trimmed(make_pair(model, load_model(base, **how), name=name), base_layers)
    return replace(pair, policy_revision=checkpoint_revision(policy, onto=base))


def _trimmed(pair: Pair, base_layers: int | None) -> Pair:
    """Return the pair, of whose base the decoder layers from ``base_layers`` on are gone."""
    if base_layers is not None:
        del pair.base.layers[base_layers:]
    return pair


@contextmanager
def frozen(*models: PreTrainedModel) -> Iterator[None]:
    """Hold models in eval mode, with no parameter asking for a gradient; then as they were."""
    training = [(module, module.training) for model in models for module in model.modules()]
    wanted = [
        parameter for model in models for parameter in model.parameters() if parameter.requires_grad
    ]
    try:
        for model in models:
            model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, mode in training:
            module.training = mode


def _named(model: PreTrainedModel) -> str:
    return model.name_or_path or type(model).__name__


def _equal_vision(policy: PreTrainedModel, base: PreTrainedModel) -> bool:
    """Return whether everything in front of the language model has equal weights."""
    text = {id(p) for model in (policy, base) for p in _text_parameters(model)}
    ours = {n: p for n, p in policy.named_parameters() if id(p) not in text}
    theirs = {n: p for n, p in base.named_parameters() if id(p) not in text}
    return ours.keys() == theirs.keys() and all(
        value.dtype == theirs[name].dtype and torch.equal(value, theirs[name].to(value.device))
        for name, value in ours.items()
    )


def _text_parameters(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    head = model.get_output_embeddings()
    return [*model.get_decoder().parameters(), *([] if head is None else head.parameters())]
