"""What vLLM cannot decode, told before anything is loaded."""

import os

from replay_adapters.settings.pairs import PairFile
from replay_adapters.settings.run_options import PREFIX
from replay_core import UsageError
from replay_core.decoding.options import MODEL_TYPES
from replay_core.errors import shown
from replay_core.pair.lora import adapted_base

_INSTEAD = f"(allowed: {PREFIX}decode=transformers)"


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
