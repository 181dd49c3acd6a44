"""A base whose decoder is held in 8 or 4 bits, which is enough to say what it predicts."""

from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PretrainedConfig
from transformers.utils.import_utils import is_bitsandbytes_available

from replay_core.errors import UsageError

Quantization = Literal["8bit", "4bit"]


def quantized(bits: Quantization, config: PretrainedConfig) -> Any:
    """Return transformers' settings for a model whose text decoder is held in 8 or 4 bits.

    Head and vision tower keep their precision: the lens reads the head's rows, and a tower that
    stays equal to the policy's need not run twice.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    if not is_bitsandbytes_available():
        raise UsageError(
            f"a base in {bits} needs bitsandbytes, which is not installed: pip install "
            "'activation-replay[quantised]'"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=bits == "8bit",
        load_in_4bit=bits == "4bit",
        llm_int8_skip_modules=_outside_the_decoder(config),
    )


def _outside_the_decoder(config: PretrainedConfig) -> list[str]:
    """Return the names of a model's linear modules that are not in its text decoder."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    inside = {id(module) for module in model.get_decoder().modules()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside
    ]
