"""What ``generate`` is asked for, said to vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from replay_core.errors import shown
from replay_core.faults import RunOver

# What vLLM has under another name or the same, read below …
_READ = (
    *("max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "stop_strings", "eos_token_id", "num_return_sequences"),
)
# … and what changes no answer there: its own cache, ids that nothing is padded with, remarks.
_WITHOUT_EFFECT = (
    *("pad_token_id", "bos_token_id", "use_cache", "max_length", "min_length"),
    *("transformers_version", "_from_model_config", "generation_kwargs", "cache_implementation"),
    *("return_dict_in_generate", "cache_config", "prefill_chunk_size", "early_stopping"),
    *("length_penalty", "disable_compile", "compile_config", "max_time", "is_assistant"),
)


@dataclass(frozen=True)
class Sampling:
    """Settings of decoding, resolved as ``generate`` itself resolves them.

    ``copies`` are the answers to each prompt, ``ends`` the tokens that end one, ``pad`` what fills
    up the shorter answers of a batch. ``settings`` are the arguments of vLLM's SamplingParams, but
    for the seed.
    """

    copies: int
    limit: int
    ends: tuple[int, ...]
    pad: int
    settings: Mapping[str, Any]

    def drawn_with(self, seed: int) -> dict[str, Any]:
        """Return the settings of one answer; a greedy one needs no seed."""
        return {**self.settings, **({"seed": seed} if self.settings["temperature"] else {})}


def sampling_of(model: PreTrainedModel, generation: Mapping[str, Any]) -> Sampling:
    """Return what ``model.generate`` would do with ``generation``, for vLLM.

    What is not given is the checkpoint's own setting, and then transformers', as in ``generate``.

    Raises:
        RunOver: something is asked for that vLLM does not do, as beams.
    """
    options = {name: value for name, value in generation.items() if name != "tokenizer"}
    resolve: Any = model._prepare_generation_config
    config, unknown = resolve(None, **options)
    for name in unknown:
        if options.get(name) is not None:
            raise _impossible(name, options[name])
    plain = GenerationConfig()
    plain.update(**plain._get_default_generation_params(), defaults_only=True)
    for name, value in config.to_dict().items():
        usual = getattr(plain, name, None)
        if name not in (*_READ, *_WITHOUT_EFFECT) and value is not None and value != usual:
            raise _impossible(name, value)
    ends = config.eos_token_id
    ends = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (int(ends),)
    pad = config.pad_token_id if config.pad_token_id is not None else (ends or (0,))[0]
    # transformers counts from max_length where no max_new_tokens is known; 20 is its own default.
    limit = int(config.max_new_tokens or 20)
    drawn = bool(config.do_sample) and config.temperature != 0
    settings: dict[str, Any] = {
        "max_tokens": limit,
        "min_tokens": int(config.min_new_tokens or 0),
        "repetition_penalty": float(config.repetition_penalty or 1.0),
        "temperature": float(config.temperature or 1.0) if drawn else 0.0,
        "stop_token_ids": list(ends),
        "ignore_eos": True,  # the tokens that end an answer are those above
        "skip_special_tokens": False,
    }
    if drawn:
        settings |= {
            "top_p": 1.0 if config.top_p is None else float(config.top_p),
            "top_k": int(config.top_k or 0),
            "min_p": float(config.min_p or 0.0),
        }
    if stops := config.stop_strings:
        settings["stop"] = [stops] if isinstance(stops, str) else list(stops)
        settings["include_stop_str_in_output"] = True
    return Sampling(int(config.num_return_sequences or 1), limit, ends, int(pad), settings)


def _impossible(name: str, value: Any) -> RunOver:
    return RunOver(
        f"{name}={shown(value)} is not possible with decode=vllm (allowed: {', '.join(_READ)}); "
        "leave it out, or take decode=transformers"
    )
