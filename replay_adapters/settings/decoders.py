"""What vLLM cannot decode, told before anything is loaded."""

import os
from typing import Any

from pydantic import ValidationError

from replay_adapters.settings.pairs import PairFile
from replay_adapters.settings.run_options import ENGINE_OPTIONS, ENGINE_PREFIX, PREFIX
from replay_core import UsageError
from replay_core.decoding.options import MODEL_TYPES, EngineOptions, vllm_version
from replay_core.errors import sentence, shown
from replay_core.pair.lora import adapted_base

_INSTEAD = f"(allowed: {PREFIX}decode=transformers)"


def engine_options(decode: str, rest: dict[str, Any]) -> EngineOptions | None:
    """Take vLLM's options out of ``rest`` and return them; None where transformers decodes.

    Raises:
        UsageError: vLLM is not installed, an option of it is not allowed, or one changes nothing.
    """
    given = {name: rest.pop(name) for name in ENGINE_OPTIONS if name in rest}
    if decode != "vllm":
        for name, value in given.items():
            raise UsageError(
                f"{name}={shown(value)} changes nothing beside {PREFIX}decode={decode}; leave it "
                f"out, or give {PREFIX}decode=vllm"
            )
        return None
    try:
        vllm_version()
    except UsageError as error:
        raise UsageError(f"{PREFIX}{error}") from error
    try:
        return EngineOptions(**{k.removeprefix(ENGINE_PREFIX): v for k, v in given.items()})
    except ValidationError as error:
        raise UsageError(sentence(error, EngineOptions, ENGINE_PREFIX)) from error


def check_decoder(method: str, pair: PairFile) -> None:
    """Raise UsageError where answers of a method or pair cannot be written by vLLM here."""
    if method == "inject":
        raise UsageError(
            f"{PREFIX}decode=vllm does not go with {PREFIX}method=inject, which overwrites "
            f"activations inside the policy: vLLM has no door for that {_INSTEAD}"
        )
    if method != "base" and adapted_base(pair.policy) is not None:
        raise UsageError(
            f"{PREFIX}decode=vllm cannot load the LoRA adapter {shown(pair.policy)} (allowed: a "
            f"checkpoint that it was merged into, or {PREFIX}decode=transformers)"
        )
    processes = int(os.environ.get("WORLD_SIZE") or 1)
    if processes > 1:
        raise UsageError(
            f"{PREFIX}decode=vllm answers in one process, and {processes} were started (allowed: "
            "one; vllm_tensor_parallel_size=N spreads vLLM over N GPUs)"
        )


def check_decodable(checkpoint: str, model_type: str) -> None:
    """Raise UsageError where vLLM does not take features in place of a family's pixels."""
    if model_type not in MODEL_TYPES:
        raise UsageError(
            f"{PREFIX}decode=vllm cannot answer with {shown(checkpoint)}, a {model_type} "
            f"checkpoint (allowed: {', '.join(MODEL_TYPES)}, or {PREFIX}decode=transformers)"
        )
