"""A policy that is a LoRA adapter on its base: one set of weights, with the adapter on or off."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, find_adapter_config_file

from replay_core.errors import UsageError, shown
from replay_core.model.doors import plain_ids
from replay_core.pair.weight_files import UNREADABLE, damage_of, holds_weights

# What some trainers save beside an adapter, and peft does not read.
_UNREAD = ("non_lora_trainables.bin", "non_lora_state_dict.bin")
# What peft puts before the name of every weight.
_PREFIX = "base_model.model."
# Ways to begin a training that take what they put into the adapter out of the base.
_TAKEN_FROM_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def adapted_base(checkpoint: str | Path) -> str | None:
    """Return the model that an adapter was trained on, or None when this is a whole checkpoint.

    Raises:
        UsageError: the adapter does not name the model.
    """
    folder = Path(checkpoint)
    try:
        found = folder / ADAPTER_CONFIG_NAME if folder.is_dir() else _on_the_hub(str(checkpoint))
        if found is None or not found.is_file() or holds_weights(folder):
            return None
        config = json.loads(found.read_bytes())
    except OSError:  # a name that no file can have: told when its config is asked for
        return None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the adapter's {shown(found)} is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise UsageError(
            f"the adapter's {shown(found)} holds {shown(config)}, not a mapping with "
            "base_model_name_or_path"
        )
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        told = "names no" if base is None else f"holds {shown(base)} as its"
        raise UsageError(
            f"the adapter {shown(checkpoint)} {told} base_model_name_or_path (allowed: a hub id or "
            "a folder)"
        )
    return base


@lru_cache(maxsize=64)
def _on_the_hub(checkpoint: str) -> Path | None:
    """Return a hub repository's adapter config, fetched; None where it has none."""
    try:
        found = find_adapter_config_file(checkpoint)
    except (OSError, ValueError):  # not to be found at all: told when its config is asked for
        return None
    return None if found is None else Path(found)


def add_adapter(model: PreTrainedModel, adapter: str | Path) -> bool:
    """Put a LoRA adapter onto ``model``, as peft's own loader does, frozen and in eval mode.

    Returns whether the model is its base again, bitwise, while the adapter is off. It is not where
    the adapter holds weights that stand in place of the base's (trained biases, a trained head), or
    where its low-rank terms began as a part of the base's weights (PiSSA and the like).

    Raises:
        UsageError: peft is not installed, the adapter is damaged, does not fit the model, or holds
            what would not be loaded.
    """
    if not is_peft_available():
        raise UsageError(
            f"{adapter} is a LoRA adapter, which needs peft: pip install 'activation-replay[lora]'"
        )
    for name in _UNREAD:
        if (Path(adapter) / name).is_file():
            raise UsageError(
                f"the adapter {adapter} holds {name}, trained weights that peft does not load; "
                "merge them and the adapter into a whole checkpoint"
            )
    if adapter_layers(model):
        raise UsageError(
            f"the adapter {adapter} cannot be put onto {model.name_or_path}, which carries an "
            "adapter already; merge that one into a whole checkpoint"
        )
    untouched, plain = _stamps(model), _plain_logits(model)
    try:
        missing, unknown = _inject(model, adapter)
    except UsageError:
        raise
    except UNREADABLE as error:
        damage = damage_of(Path(adapter), adapter=True)
        reason = damage or " ".join(str(error).split())[:300].rstrip(".") or repr(error)
        raise UsageError(
            f"the adapter {adapter} cannot be put onto {model.name_or_path} ({reason})"
        ) from error
    if missing or unknown:
        named = (missing or unknown)[:3]
        raise UsageError(
            f"the adapter {adapter} cannot be put onto {model.name_or_path}: {len(missing)} of its "
            f"weights are missing and {len(unknown)} have no place there ({', '.join(named)})"
        )
    model.requires_grad_(False).eval()
    _unwrap_head(model)
    with without_adapter(model):
        return _still(model, untouched) and torch.equal(_plain_logits(model), plain)


def _inject(model: PreTrainedModel, adapter: str | Path) -> tuple[list[str], list[str]]:
    """Put an adapter into ``model``; return names that its file lacks, and that found no place.

    What ``PeftModel.from_pretrained`` does, but for one thing: on a CPU that one dispatches the
    model anew, to a GPU if there is one.
    """
    from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(adapter))
    if (
        config.is_prompt_learning
        or config.peft_type in (PeftType.ADAPTION_PROMPT, PeftType.XLORA)
        or getattr(config, "alora_invocation_tokens", None)
    ):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UsageError(
            f"the adapter {adapter} is a {kind} one that needs peft's own forward (allowed: one "
            "that stands in the model's layers, as LoRA and DoRA do)"
        )
    config.inference_mode = True
    weights = _todays_names(model, load_peft_weights(str(adapter), device="cpu"))
    wrapped = PeftModel(model, config)
    report: Any = set_peft_model_state_dict(wrapped, weights)
    missing = [name for name in report.missing_keys if ".default" in name]
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    if not missing and len(weights) < len(expected):  # biases, which have their base's names
        missing = sorted(set(expected) - set(weights))
    return missing, list(report.unexpected_keys)


def _todays_names(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names in an adapter that was trained under transformers 4.

    peft 0.21 knows no old names of Qwen2-VL, Qwen2.5-VL and LLaVA: with a warning it leaves all of
    the adapter out. transformers' loader of adapters knows them, but leaves out DoRA's magnitudes.
    To be dropped when ``PeftModel.from_pretrained`` loads such an adapter.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    known = {name for name, _ in model.named_modules()}
    rules = [
        rule
        for rule in get_model_conversion_mapping(model) or ()
        if isinstance(rule, WeightRenaming)
    ]

    def depth(name: str) -> int:
        """Return how many parts of a name lead to a module of the model."""
        parts = name.split(".")
        return max(i for i in range(len(parts) + 1) if ".".join(parts[:i]) in known)

    def todays(name: str) -> str:
        bare = name.removeprefix(_PREFIX)
        renamed, _ = rename_source_key(bare, rules, [])
        return _PREFIX + renamed if depth(renamed) > depth(bare) else name

    return {todays(name): weight for name, weight in weights.items()}


def _unwrap_head(model: PreTrainedModel) -> None:
    """Put a head that was trained whole in the base's place: the lens reads a head's weights."""
    from peft.utils import ModulesToSaveWrapper

    head: Any = model.get_output_embeddings()
    if isinstance(head, ModulesToSaveWrapper):
        model.set_output_embeddings(head.modules_to_save["default"])


def _stamps(model: nn.Module) -> dict[int, tuple[Tensor, int, int]]:
    """Return every tensor of a model, with its place in memory and how often it was written."""
    tensors = [*model.parameters(), *model.buffers()]
    return {id(tensor): (tensor, tensor.data_ptr(), tensor._version) for tensor in tensors}


def _still(model: nn.Module, before: Mapping[int, tuple[Tensor, int, int]]) -> bool:
    """Return whether the tensors noted in ``before`` are all in the model, and none was written.

    Says it of all weights, the vision tower's too, without holding or running them twice.
    """
    now = _stamps(model)
    return all(key in now and now[key][1:] == stamp[1:] for key, stamp in before.items())


@torch.no_grad()
def _plain_logits(model: PreTrainedModel) -> Tensor:
    """Return the logits of a short text."""
    embeddings: Any = model.get_input_embeddings()
    ids = plain_ids(model).to(embeddings.weight.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def check_switchable(model: PreTrainedModel) -> None:
    """Check, by its adapters' settings, that a model is its base while they are off.

    Raises:
        UsageError: an adapter changed weights of the base itself.
    """
    for config in getattr(model, "peft_config", {}).values():
        bias, start = getattr(config, "bias", "none"), getattr(config, "init_lora_weights", True)
        taken = isinstance(start, str) and start.startswith(_TAKEN_FROM_THE_BASE)
        if bias != "none" or taken:
            what = f"bias={bias}" if bias != "none" else f"init_lora_weights={start}"
            raise UsageError(
                f"{model.name_or_path} carries an adapter with {what}, which changed weights of "
                "the base: give the base as a second model"
            )


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
