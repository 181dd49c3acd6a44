"""A pair: the RLVR policy that answers, and the base it was trained from."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PretrainedConfig, PreTrainedModel

from replay_core.errors import UsageError
from replay_core.model.anatomy import Anatomy, anatomy_of
from replay_core.model.devices import on_device
from replay_core.model.doors import check_doors
from replay_core.model.vision import Inputs, VisualFeatures, visual_features
from replay_core.pair.identity import revision_of
from replay_core.pair.lora import adapter_layers, check_switchable, without_adapter
from replay_core.store import Store


@dataclass(frozen=True)
class Pair:
    """A policy and its base, checked against each other; see :func:`make_pair`.

    ``shared_vision``: the two vision towers have equal weights, so that features are computed once;
    None while the base is not loaded, and then found out when it is asked (:attr:`sees_alike`).
    ``adapted``: both are one set of weights, and the policy is its LoRA adapter. ``store`` keeps
    what the base reads, and x. ``text_behind_clips`` tells how both number positions.
    """

    policy: Anatomy
    base: Anatomy
    shared_vision: bool | None
    adapted: bool = False
    name: str = ""
    policy_revision: str = ""
    base_revision: str = ""
    store: Store | None = None
    text_behind_clips: bool = False

    @cached_property
    def sees_alike(self) -> bool:
        """Whether the base's vision tower gives the policy's features; loads a deferred base."""
        if self.shared_vision is None:
            return _equal_vision(self.policy.model, self.base.model)
        return self.shared_vision

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Let the base's model be the base inside the block: its adapter, if any, is off."""
        with without_adapter(self.base.model) if self.adapted else nullcontext():
            yield

    def seen_by_base(
        self, inputs: Inputs, features: VisualFeatures | None
    ) -> tuple[Inputs, VisualFeatures | None]:
        """Return prompts and visual features as the base sees them, on its device.

        Its tower runs unless the policy's ``features`` are given and would be its own. To be asked
        inside :meth:`as_base`.
        """
        base = self.base.model
        theirs = on_device(inputs, base.device)
        if features is None or not self.sees_alike:
            return theirs, visual_features(base, theirs)
        return theirs, on_device(features, base.device)


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
        return adapted_pair(policy, name)
    check_configs(policy.config, base.config, _named(policy), _named(base))
    ours = checked(policy)
    theirs = ours if base is policy else checked(base)
    return Pair(
        ours,
        theirs,
        _equal_vision(policy, base),
        name=name or _named(policy),
        policy_revision=revision_of(policy),
        base_revision=revision_of(base),
    )


def checked(model: PreTrainedModel) -> Anatomy:
    """Return the parts of a model, whose doors are found to lead where they should.

    Raises:
        UsageError: it has no doors that replay can use.
    """
    anatomy = anatomy_of(model)
    check_doors(anatomy)
    return anatomy


def adapted_pair(model: PreTrainedModel, name: str) -> Pair:
    """Return the pair of a model that carries a LoRA adapter, and the same with the adapter off.

    Raises:
        UsageError: it carries no adapter, or has no doors that replay can use.
    """
    if not adapter_layers(model):
        raise UsageError(
            f"{_named(model)} carries no LoRA adapter, so it needs a base (allowed: a second "
            "model, or a model with a peft adapter)"
        )
    anatomy = checked(model)
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
    ours, theirs = policy.get_text_config(), base.get_text_config()
    facts = {
        "architecture": (policy.model_type, base.model_type),
        "hidden size": (ours.hidden_size, theirs.hidden_size),
        "number of layers": (ours.num_hidden_layers, theirs.num_hidden_layers),
        "vocabulary size": (ours.vocab_size, theirs.vocab_size),
    }
    for label, (mine, other) in facts.items():
        if mine != other:
            raise UsageError(
                f"policy {policy_name} and base {base_name} are not a pair: their {label} differs "
                f"({mine} and {other}; it must be equal)"
            )


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
