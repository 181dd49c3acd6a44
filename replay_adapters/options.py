"""From a harness's option strings to one resolved set of settings.

Precedence: command line > pair file > task file > harness.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PretrainedConfig

from replay_adapters.pairs import PairFile, Protocol, read_pair
from replay_core import ReplayConfig, UsageError
from replay_core.adapter import adapted_base
from replay_core.config import sentence
from replay_core.loading import load_config
from replay_core.pair import check_configs

PREFIX = "replay_"
EMBEDDED_PAIR = "demo"
PROTOCOLS = ("pair", "task")
DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("8bit", "4bit")
_ADAPTER_OPTIONS = ("base", "protocol", "base_device", "base_quantization", "journal")


@dataclass(frozen=True)
class Settings:
    """What one run does, after all sources have been put together.

    ``rest`` are the arguments that go on to the harness's own class. ``base_device`` and
    ``base_quantization`` say where and in how many bits the base is held, when not as the policy;
    ``journal`` is the file that keeps answers for a run that is started again.
    """

    pair: PairFile
    config: ReplayConfig
    protocol: Protocol
    protocol_name: str
    dtype: str | None
    rest: dict[str, Any]
    base_device: str | None = None
    base_quantization: Any = None
    journal: Path | None = None

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Raise UsageError when the pair is not meant for one of ``tasks``."""
        if self.pair.tasks is None:
            return
        for task in tasks:
            if task not in self.pair.tasks:
                raise UsageError(
                    f"task {task!r} cannot be answered by the embedded pair {self.pair.name!r}, "
                    f"which only knows {', '.join(self.pair.tasks)}; name a pair with pair=NAME "
                    "or pretrained=POLICY,replay_base=BASE"
                )

    @property
    def processor_source(self) -> str:
        """Whose processor is meant: a LoRA adapter's folder need not have one."""
        answering = self.pair.policy if adapted_base(self.pair.policy) is None else self.pair.base
        return self.pair.processor or answering

    def summary(self) -> dict[str, Any]:
        """Return the resolved settings as they are logged and fingerprinted."""
        return {
            "pair": self.pair.name,
            "policy": self.pair.policy,
            "base": self.pair.base,
            "processor": self.pair.processor,
            "config": self.config.model_dump(mode="json"),
            "config_hash": self.config.fingerprint(),
            "protocol": self.protocol_name,
            "protocol_settings": self.protocol.model_dump(mode="json", exclude_none=True),
            "dtype": self.dtype,
            "base_device": self.base_device,
            "base_quantization": self.base_quantization,
            "harness_arguments": {key: str(value) for key, value in self.rest.items()},
        }

    def fingerprint(self, *more: str) -> str:
        """Return 16 digits that change with any setting, or with what else is named."""
        text = json.dumps([self.summary(), *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(arguments: Mapping[str, Any]) -> Settings:
    """Return the settings that a harness's model arguments ask for.

    Reads no weights, and of checkpoints at most their configs.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    options = {
        key.removeprefix(PREFIX): given.pop(key) for key in list(given) if key.startswith(PREFIX)
    }
    _refuse_unknown(options)
    base, protocol_name = options.pop("base", None), options.pop("protocol", None)
    base_device, quantization = (
        options.pop("base_device", None),
        options.pop("base_quantization", None),
    )
    journal = options.pop("journal", None)
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise UsageError(
            f"replay_base_quantization={quantization} is not allowed (allowed: "
            f"{', '.join(QUANTIZATIONS)})"
        )
    _check_device(base_device)
    dtype = given.pop("dtype", None)
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype={dtype} is not allowed (allowed: {', '.join(DTYPES)})")
    pair = _pair(given.pop("pretrained", None), given.pop("pair", None), base, options)
    preset = pair.inject if options.get("method") == "inject" else pair.replay
    config = _config({**preset, **options})
    if protocol_name is None:
        protocol_name = "task" if pair.protocol == Protocol() else "pair"
    if protocol_name not in PROTOCOLS:
        raise UsageError(
            f"replay_protocol={protocol_name} is not allowed (allowed: {', '.join(PROTOCOLS)})"
        )
    protocol = pair.protocol if protocol_name == "pair" else Protocol()
    settings = Settings(
        pair,
        config,
        protocol,
        protocol_name,
        dtype or pair.dtype,
        given,
        base_device,
        quantization,
        None if journal is None else Path(str(journal)).expanduser(),
    )
    return replace(settings, rest={**_harness_arguments(settings.protocol), **given})


def check_checkpoints(settings: Settings) -> PretrainedConfig:
    """Check the checkpoints' configs against each other and the options.

    Returns the config of the checkpoint that answers.

    Raises:
        UsageError: a checkpoint is missing, the two are no pair, or a layer does not exist.
    """
    files = settings.pair
    on_the_base = settings.config.method == "base" or adapted_base(files.policy) is not None
    config = load_config(files.base if on_the_base else files.policy)
    if settings.config.steers:
        base = load_config(settings.pair.base)
        check_configs(config, base, settings.pair.policy, settings.pair.base)
        try:
            settings.config.layer_indices(config.get_text_config().num_hidden_layers)
        except UsageError as error:
            raise UsageError(f"{PREFIX}{error}") from error
    return config


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = [*ReplayConfig.model_fields, *_ADAPTER_OPTIONS]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
            hint = f"did you mean {PREFIX}{close[0]}? " if close else ""
            allowed = ", ".join(PREFIX + option for option in sorted(known))
            raise UsageError(f"{PREFIX}{name} is not an option; {hint}Options: {allowed}")


def _pair(
    pretrained: str | None, name: str | None, base: str | None, options: Mapping[str, Any]
) -> PairFile:
    """Return the pair that was named; the embedded one where nothing was."""
    if name is None and pretrained is None:
        if base is not None:
            raise UsageError(
                f"replay_base={base} needs its policy: give pretrained=POLICY, or pair=NAME"
            )
        return read_pair(EMBEDDED_PAIR)
    if name is not None:
        changes = {"policy": pretrained, "base": base}
        wanted = {role: str(value) for role, value in changes.items() if value is not None}
        return read_pair(str(name)).model_copy(update=wanted)
    base = base or adapted_base(pretrained)
    if base is None:
        if options.get("method") != "none":
            raise UsageError(
                f"replay_base is missing: pretrained={pretrained} names only the policy; add "
                "replay_base=BASE (the checkpoint before RLVR), or take pair=NAME, a LoRA adapter, "
                "or replay_method=none"
            )
        base = pretrained
    label = Path(str(pretrained)).name
    return PairFile(name=label, policy=str(pretrained), base=str(base))


def _config(options: Mapping[str, Any]) -> ReplayConfig:
    values = dict(options)
    if isinstance(text := values.get("layers"), str) and text.startswith("["):
        try:
            values["layers"] = tuple(json.loads(text))
        except json.JSONDecodeError as error:
            raise UsageError(
                f"replay_layers={text} is not allowed: give auto, a number, or indices as in "
                "replay_layers=[0,1,2]"
            ) from error
    if isinstance(given := values.get("thresholds"), str) and given not in ("dynamic", "release"):
        values["thresholds"] = read_thresholds(given)
    try:
        return ReplayConfig(**values)
    except ValidationError as error:
        raise UsageError(sentence(error, ReplayConfig, PREFIX)) from error


def read_thresholds(path: str) -> dict[int, float]:
    """Return the entropies in nats, by layer, in a file of ``activation-replay thresholds``.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        return {int(layer): float(nats) for layer, nats in content["thresholds"].items()}
    except OSError as error:
        raise UsageError(
            f"replay_thresholds={path} is not allowed (allowed: dynamic, release, or a file that "
            "`activation-replay thresholds` wrote)"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"replay_thresholds={path} holds no entropies per layer, as "
            '{"thresholds": {"0": 1.25, "1": 2.5}} does'
        ) from error


def _check_device(name: str | None) -> None:
    try:
        torch.device(name or "cpu")
    except RuntimeError as error:
        raise UsageError(
            f"replay_base_device={name} is not allowed (allowed: cpu, cuda, cuda:1 and the like)"
        ) from error


def _harness_arguments(protocol: Protocol) -> dict[str, Any]:
    """Return the protocol's settings that the harness's class takes in its constructor."""
    names = ("min_pixels", "max_pixels", "max_num_frames")
    values = {name: getattr(protocol, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
