"""What both harness adapters do to put a pair in the place of a harness's own model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from replay_adapters.options import Settings
from replay_core import Pair, load_pair, make_pair
from replay_core.adapter import adapted_base
from replay_core.pair import load_model
from replay_core.record import library_versions


class Answering:
    """A model whose ``generate`` is another function, and which is itself in everything else."""

    def __init__(self, model: Any, generate: Callable[..., Any]) -> None:
        self._model = model
        self.generate = generate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def load_for_method(settings: Settings, config: PretrainedConfig, loading: dict[str, Any]) -> Pair:
    """Load what the method needs: one model for ``none`` and ``base``, else both.

    ``config`` is the answering checkpoint's; ``loading`` goes to transformers.
    """
    files, method = settings.pair, settings.config.method
    adapted = adapted_base(files.policy) is not None
    if settings.config.steers or (adapted and method == "none"):
        layers = settings.config.layer_indices(config.get_text_config().num_hidden_layers)
        return load_pair(
            files.policy,
            files.base,
            base_layers=max(layers) + 1,
            base_device_map=settings.base_device,
            base_quantization=settings.base_quantization,
            name=files.name,
            **loading,
        )
    alone = load_model(files.base if method == "base" else files.policy, **loading)
    return make_pair(alone, alone, name=files.name)


def identity_of(pair: Pair) -> dict[str, Any]:
    """Return what an answer depends on beside the settings: weights and versions."""
    return {
        "policy_revision": pair.policy_revision,
        "base_revision": pair.base_revision,
        "versions": library_versions(),
    }


@contextmanager
def already_loaded(model: PreTrainedModel) -> Iterator[None]:
    """Let a harness class's constructor take ``model`` instead of loading one.

    Both harnesses' Qwen classes load the policy themselves, with a hard-coded dtype, attention or
    device: a second copy of it beside the pair's.
    """
    kind: Any = type(model)
    kind.from_pretrained = classmethod(lambda cls, *args, **kwargs: model)
    try:
        yield
    finally:
        del kind.from_pretrained  # uncovers the inherited one
