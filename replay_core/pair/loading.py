"""Load a pair, or one checkpoint, or refuse one whose weights are not those of its config."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError as HubValidationError
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from replay_core.errors import UsageError, shown
from replay_core.model.anatomy import Anatomy, DeferredAnatomy, manner_of
from replay_core.model.positions import put_text_behind_clips
from replay_core.pair.identity import checkpoint_revision
from replay_core.pair.lora import adapted_base, add_adapter
from replay_core.pair.pair import Pair, adapted_pair, check_configs, checked, make_pair
from replay_core.pair.quantisation import Quantization, quantized
from replay_core.pair.weight_files import UNREADABLE, damage_of
from replay_core.store import Store


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
    store: Store | None = None,
    text_behind_clips: bool = False,
) -> Pair:
    """Load a pair from two checkpoints, each once, or from a LoRA adapter and its base.

    ``policy`` may be a folder, or hub id, that peft saved a LoRA adapter to, and ``base`` may be
    left out: then one model is loaded, whose adapter is off where the base is asked, and the base
    by itself only where the adapter changed weights of the base (see :func:`add_adapter`).
    ``base_layers`` drops the base's decoder layers from that one on: replay never runs them, and
    they take memory. A base loaded so cannot answer by itself. ``base_device_map`` puts the base
    elsewhere, ``base_quantization`` loads its decoder in 8 or 4 bits. With a ``store``, a base of
    its own is loaded only when something is asked of it that the store does not hold.
    ``text_behind_clips`` numbers positions as these models were trained with: see
    :func:`~replay_core.model.positions.put_text_behind_clips`.

    Raises:
        UsageError: a checkpoint is missing, the two are not a pair, or a LoRA pair is asked for a
            base of its own.
    """
    trained_on = adapted_base(policy)
    how: dict[str, Any] = {
        "dtype": dtype,
        "device_map": device_map,
        "attn_implementation": attn_implementation,
        "text_behind_clips": text_behind_clips,
    }
    if trained_on is not None:
        if base_device_map is not None or base_quantization is not None:
            raise UsageError(
                f"{policy} is a LoRA adapter, which shares its weights with its base: the base can "
                "have no device or quantisation of its own"
            )
        adapted = _load_adapted(policy, base or trained_on, how, base_layers, name)
        return replace(adapted, store=store, text_behind_clips=text_behind_clips)
    if base is None:
        raise UsageError(f"{policy} is no LoRA adapter, so a base must be named")
    config = load_config(base)
    check_configs(load_config(policy), config, str(policy), str(base))
    ours = load_model(policy, **how)
    elsewhere = {} if base_device_map is None else {"device_map": base_device_map}
    load = partial(load_model, base, **{**how, **elsewhere}, quantization=base_quantization)
    known = _dtype_of(dtype, config)
    if store is None or known is None:
        pair = _trimmed(make_pair(ours, load(), name=name), base_layers)
    else:
        whole = config.get_text_config().num_hidden_layers
        depth = whole if base_layers is None else min(base_layers, whole)
        at = base_device_map if isinstance(base_device_map, str | int) else ours.device
        attention = getattr(ours.config, "_attn_implementation", None)
        manner = manner_of(known, attention, torch.device(at), base_quantization)
        later = DeferredAnatomy(partial(_base_of, load, depth), str(base), depth, known, manner)
        pair = Pair(checked(ours), later, None, name=name or str(policy))
    return replace(
        pair,
        policy_revision=checkpoint_revision(policy),
        base_revision=checkpoint_revision(base),
        store=store,
        text_behind_clips=text_behind_clips,
    )


def _dtype_of(asked: torch.dtype | str, config: PretrainedConfig) -> torch.dtype | None:
    """Return the dtype that a checkpoint will be loaded in; None where only its weights know."""
    if isinstance(asked, torch.dtype):
        return asked
    known = config.dtype if asked == "auto" else getattr(torch, asked, None)
    return known if isinstance(known, torch.dtype) else None


def _base_of(load: Callable[[], PreTrainedModel], depth: int) -> Anatomy:
    """Load a deferred base, check it as a pair's, and drop what is never run."""
    anatomy = checked(load())
    del anatomy.layers[depth:]
    return anatomy


def _load_adapted(
    policy: str | Path, base: str | Path, how: dict[str, Any], base_layers: int | None, name: str
) -> Pair:
    """Load a LoRA adapter onto its base, and the base again where the adapter changed it."""
    model = load_model(base, **how)
    name = name or Path(policy).name
    if add_adapter(model, policy):
        pair = adapted_pair(model, name)
    else:
        pair = _trimmed(make_pair(model, load_model(base, **how), name=name), base_layers)
    return replace(pair, policy_revision=checkpoint_revision(policy, onto=base))


def _trimmed(pair: Pair, base_layers: int | None) -> Pair:
    """Return the pair, of whose base the decoder layers from ``base_layers`` on are gone."""
    if base_layers is not None:
        del pair.base.layers[base_layers:]
    return pair


def load_config(checkpoint: str | Path) -> PretrainedConfig:
    """Return a checkpoint's config; for a LoRA adapter, that of the model it was trained on.

    Raises:
        UsageError: there is no checkpoint, or its generation settings cannot be read.
    """
    where = adapted_base(checkpoint) or str(checkpoint)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        config.get_text_config().num_hidden_layers  # noqa: B018
    except (*UNREADABLE, HubValidationError, StrictDataclassError, ZeroDivisionError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
        raise UsageError(
            f"{shown(checkpoint)} is not a checkpoint that transformers can load "
            f"({shown(reason, 200)}); give a folder with a config.json and weights, or the id of a "
            "model on the hub"
        ) from error
    _check_generation_config(Path(where))
    return config


def load_model(
    checkpoint: str | Path,
    *,
    onto: str | Path | None = None,
    dtype: torch.dtype | str = "auto",
    device_map: Any = None,
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
    text_behind_clips: bool = False,
) -> PreTrainedModel:
    """Load one checkpoint, in eval mode; a LoRA adapter with the model it was trained on.

    ``onto`` is another place to load an adapter's model from. ``quantization`` loads the text
    decoder's weights with bitsandbytes; head and vision tower stay in ``dtype``.

    Raises:
        UsageError: there is no checkpoint, no model in it, no bitsandbytes, a file that cannot be
            read, or weights that are not those of the config (no model ever runs on new ones).
    """
    trained_on = adapted_base(checkpoint)
    config = load_config(checkpoint if trained_on is None else onto or trained_on)
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": device_map}
    if attn_implementation is not None:
        arguments["attn_implementation"] = attn_implementation
    if quantization is not None:
        arguments["quantization_config"] = quantized(quantization, config)
    model = _load_whole(checkpoint if trained_on is None else onto or trained_on, arguments)
    if trained_on is not None:
        add_adapter(model, checkpoint)
    if text_behind_clips:
        put_text_behind_clips(model)
    return model


def _load_whole(checkpoint: str | Path, arguments: dict[str, Any]) -> PreTrainedModel:
    _refuse_two_in_one(Path(checkpoint))
    try:
        with _report_unprinted():
            # Sizes that do not match are in the report, and refused with the rest of it.
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                str(checkpoint),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                **arguments,
            )
    except UNREADABLE as error:
        damage = damage_of(Path(checkpoint))
        if damage is not None:
            raise UsageError(f"{checkpoint} cannot be loaded: {damage}") from error
        if not isinstance(error, OSError | ValueError | KeyError):
            raise  # out of memory and the like: nothing that is wrong with the checkpoint
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(f"{checkpoint} holds no image-text-to-text model ({reason})") from error
    model: PreTrainedModel = loaded[0]
    _check_report(checkpoint, loaded[1])
    return model.eval()


@contextmanager
def _report_unprinted() -> Iterator[None]:
    """Keep transformers from printing its loading report, of which we give one sentence."""

    def lets_pass(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(lets_pass)
    try:
        yield
    finally:
        logger.removeFilter(lets_pass)


def _check_report(checkpoint: str | Path, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not exactly its model's.

    ``report`` is transformers' loading report, from which it has taken what is expected to differ:
    tied heads, names that it translates, and what the model's class declares as ignorable.
    """
    mismatched = [
        f"{name} ({tuple(theirs)} instead of {tuple(ours)})"
        for name, theirs, ours in report["mismatched_keys"]
    ]
    kinds = {
        "{} of its model's weights are missing": report["missing_keys"],
        "{} that it holds are unknown to its model": report["unexpected_keys"],
        "{} have another shape than its config says": mismatched,
    }
    found = {text: sorted(names) for text, names in kinds.items() if names}
    if not found:
        return
    shown = 3 // len(found)
    parts = [
        f"{text.format(len(names))} ({', '.join(names[:shown])}{', …' * (len(names) > shown)})"
        for text, names in found.items()
    ]
    raise UsageError(
        f"{checkpoint} does not hold the weights of the model in its config.json: "
        f"{' and '.join(parts)}"
    )


def _refuse_two_in_one(folder: Path) -> None:
    """Refuse a folder of a whole checkpoint and a LoRA adapter, which transformers would add up."""
    if (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{folder} holds a whole checkpoint and the adapter_config.json of a LoRA adapter; "
            "leave one of the two there"
        )


def _check_generation_config(folder: Path) -> None:
    """Refuse generation settings that are no JSON, in place of which transformers takes others."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON ({error}); mend it, or take it away") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{file} holds {shown(content)}, not a mapping of settings; mend it, or take it away"
        )
