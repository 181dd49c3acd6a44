"""What both harness adapters do to put a pair in the place of a harness's own model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from loguru import logger
from transformers import PretrainedConfig, PreTrainedModel

from replay_adapters.session.decoders import check_room
from replay_adapters.settings.options import Settings
from replay_adapters.settings.processors import processor_revision
from replay_core import Pair, load_pair, make_pair
from replay_core.amortised import start_of
from replay_core.pair.identity import checkpoint_revision
from replay_core.pair.loading import load_model
from replay_core.pair.lora import adapted_base
from replay_core.record import library_versions
from replay_core.store import Store


class WithGenerate:
    """A model whose ``generate`` is another function, and which is itself in everything else."""

    def __init__(self, model: Any, generate: Callable[..., Any]) -> None:
        self._model = model
        self.generate = generate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def load_models_for(settings: Settings, config: PretrainedConfig, loading: dict[str, Any]) -> Pair:
    """Load what the method needs: both models where it asks the base, else one.

    ``config`` is the answering checkpoint's; ``loading`` goes to transformers.
    """
    check_room(settings, config, loading.get("device_map"))
    files, store = settings.pair, store_of(settings)
    loading = {**loading, "text_behind_clips": settings.protocol.text_behind_clips}
    onto = files.base if adapted_base(files.policy) is not None else None
    if (start := settings.config.starts) is not None:
        start_of(start, checkpoint_revision(files.policy, onto=onto))  # refused before it is loaded
    if settings.config.asks_base:
        layers = settings.config.layer_indices(config.get_text_config().num_hidden_layers)
        pair = load_pair(
            files.policy,
            files.base,
            base_layers=max(layers) + 1,
            base_device_map=settings.base_device,
            base_quantization=settings.base_quantization,
            name=files.name,
            store=store,
            **loading,
        )
        if adapted_base(files.policy) is not None and not pair.adapted:
            logger.warning(
                f"replay: the adapter {files.policy} changed weights of its base, which is "
                "therefore loaded as a second model"
            )
        return pair
    if settings.config.method == "base":
        alone, revision = load_model(files.base, **loading), checkpoint_revision(files.base)
    else:
        alone = load_model(files.policy, onto=onto, **loading)
        revision = checkpoint_revision(files.policy, onto=onto)
    pair = make_pair(alone, alone, name=files.name)
    return replace(pair, policy_revision=revision, base_revision=revision)


def store_of(settings: Settings) -> Store | None:
    """Return the store that a run was given.

    Raises:
        UsageError: it is no folder, and cannot be made one.
    """
    if settings.store is None:
        return None
    return Store(
        settings.store, settings.store_gb, tell=lambda told: logger.warning(f"replay: {told}")
    )


def provenance_of(pair: Pair, settings: Settings) -> dict[str, Any]:
    """Return what an answer depends on beside the settings: files of all parts, and versions."""
    return {
        "policy_revision": pair.policy_revision,
        "base_revision": pair.base_revision,
        "processor_revision": processor_revision(settings),
        "versions": library_versions(),
    }


@contextmanager
def constructor_takes(model: PreTrainedModel) -> Iterator[None]:
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
