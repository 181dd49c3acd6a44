"""A policy that is a LoRA adapter on its base: one set of weights, with the adapter on or off."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, find_adapter_config_file

from replay_core.errors import UsageError


def adapted_base(checkpoint: str | Path) -> str | None:
    """Return the model that an adapter was trained on, or None when this is a whole checkpoint.

    Raises:
        UsageError: the adapter does not name the model.
    """
    folder = Path(checkpoint)
    found = folder / ADAPTER_CONFIG_NAME if folder.is_dir() else _on_the_hub(str(checkpoint))
    if found is None or not found.is_file() or (folder / "config.json").is_file():
        return None
    base = json.loads(found.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UsageError(f"the adapter {checkpoint} names no base_model_name_or_path")
    return str(base)


@lru_cache(maxsize=64)
def _on_the_hub(checkpoint: str) -> Path | None:
    """Return a hub repository's adapter config, fetched; None where it has none."""
    try:
        found = find_adapter_config_file(checkpoint)
    except (OSError, ValueError):  # not to be found at all: told when its config is asked for
        return None
    return None if found is None else Path(found)


def add_adapter(model: PreTrainedModel, adapter: str | Path) -> None:
    """Put a LoRA adapter onto ``model``, frozen and in eval mode.

    Raises:
        UsageError: peft is not installed, or the adapter does not fit the model.
    """
    if not is_peft_available():
        raise UsageError(
            f"{adapter} is a LoRA adapter, which needs peft: pip install 'activation-replay[lora]'"
        )
    try:
        model.load_adapter(str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"the adapter {adapter} cannot be put onto {model.name_or_path} ({reason})"
        ) from error
    model.requires_grad_(False).eval()


def adapter_layers(model: nn.Module) -> list[Any]:
    """Return the modules of ``model`` that peft put an adapter into."""
    if not is_peft_available():
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return [module for module in model.modules() if isinstance(module, kinds)]


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Switch a model's adapter off inside the block; everything is as found afterwards."""
    layers = [layer for layer in adapter_layers(model) if not layer.disable_adapters]
    # Switching an adapter also switches whether its weights ask for gradients.
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, want in wanted:
            parameter.requires_grad_(want)
