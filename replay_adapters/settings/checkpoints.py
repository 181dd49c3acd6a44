"""Whether checkpoints can be loaded and are a pair, told by their small files and headers."""

from pathlib import Path

from transformers import PretrainedConfig

from replay_adapters.settings.decoders import check_decodable
from replay_adapters.settings.options import Settings, check_devices
from replay_adapters.settings.processors import check_processor
from replay_adapters.settings.run_options import PREFIX
from replay_core import UsageError
from replay_core.pair.loading import load_config
from replay_core.pair.lora import adapted_base
from replay_core.pair.pair import check_configs
from replay_core.pair.weight_files import check_weights


def check_checkpoints(settings: Settings) -> PretrainedConfig:
    """Check devices, configs, weights' headers and processor, against each other and the options.

    Returns the config of the checkpoint that answers. Of weights only headers are read.

    Raises:
        UsageError: a device is not there, a checkpoint is missing or damaged, the two are no pair,
            a layer does not exist, there is no processor for them, or vLLM cannot decode them.
    """
    check_devices(settings, here=True)
    files, method = settings.pair, settings.config.method
    adapts = adapted_base(files.policy) is not None
    config = load_config(files.base if method == "base" or adapts else files.policy)
    if settings.engine is not None:
        check_decodable(files.base if method == "base" else files.policy, config.model_type)
    if settings.config.asks_base:
        base = load_config(files.base)
        check_configs(config, base, files.policy, files.base)
        text = config.get_text_config()
        try:
            settings.config.layer_indices(text.num_hidden_layers)
            settings.config.check_top_k(text.vocab_size)
        except UsageError as error:
            raise UsageError(f"{PREFIX}{error}") from error
    if method != "base":
        check_weights(Path(files.policy), adapter=adapts)
    if method == "base" or settings.config.asks_base or adapts:
        check_weights(Path(files.base))
    check_processor(settings, config)
    return config
