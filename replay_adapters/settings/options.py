"""From a harness's option strings to one resolved set of settings.

Precedence: command line > preset by name > pair file > task file > harness.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from transformers import PretrainedConfig

from replay_adapters.settings.pairs import PairFile, Protocol, read_pair
from replay_adapters.settings.run_options import AS_TYPED, PREFIX, PairOptions, RunOptions
from replay_core import ReplayConfig, UsageError
from replay_core.errors import sentence
from replay_core.pair.loading import load_config
from replay_core.pair.lora import adapted_base
from replay_core.pair.pair import check_configs

EMBEDDED_PAIR = "demo"
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Settings:
    """What one run does, after all sources have been put together.

    ``rest`` are the arguments that go on to the harness's own class. ``base_device`` and
    ``base_quantization`` say where and in how many bits the base is held, when not as the policy;
    ``journal`` is the file that keeps answers for a run that is started again; ``preset`` is the
    name of the pair's preset that was asked for, whose values are in ``config``.
    """

    pair: PairFile
    config: ReplayConfig
    protocol: Protocol
    protocol_name: str
    dtype: str | None
    rest: dict[str, Any]
    base_device: str | int | None = None
    base_quantization: Any = None
    journal: Path | None = None
    preset: str | None = None

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
        """Return the settings as they are logged: what they come to, and the preset's name."""
        return {**self.resolved(), "preset": self.preset}

    def resolved(self) -> dict[str, Any]:
        """Return what the settings come to, as it is fingerprinted, however it was spelt."""
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
        text = json.dumps([self.resolved(), *more], sort_keys=True)
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
    run = _read(RunOptions, _taken(options, RunOptions), PREFIX)
    named = _read(PairOptions, _taken(given, PairOptions))
    pair = _pair(named.pretrained, named.pair, run.base, options)
    config = _config({**_preset(pair, run.preset, options.get("method")), **options})
    protocol_name = run.protocol or ("task" if pair.protocol == Protocol() else "pair")
    protocol = pair.protocol if protocol_name == "pair" else Protocol()
    settings = Settings(
        pair,
        config,
        protocol,
        protocol_name,
        named.dtype or pair.dtype,
        given,
        run.base_device,
        run.base_quantization,
        None if run.journal is None else Path(run.journal).expanduser(),
        run.preset,
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
    known = [*ReplayConfig.model_fields, *RunOptions.model_fields]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
            hint = f"did you mean {PREFIX}{close[0]}? " if close else ""
            allowed = ", ".join(PREFIX + option for option in sorted(known))
            raise UsageError(f"{PREFIX}{name} is not an option; {hint}Options: {allowed}")


def _taken(options: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Take out of ``options`` what ``model`` has a field for."""
    return {name: options.pop(name) for name in model.model_fields if name in options}


def _read(model: type[_Model], values: Mapping[str, Any], prefix: str = "") -> _Model:
    try:
        return model(**values)
    except ValidationError as error:
        raise UsageError(sentence(error, model, prefix)) from error


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
    return _read(ReplayConfig, values, PREFIX)


def _preset(pair: PairFile, name: str | None, method: str | None) -> dict[str, Any]:
    """Return the settings that stand in a pair's file for a method, with a preset over them."""
    if name is None:
        return pair.inject if method == "inject" else pair.replay
    if not pair.presets:
        raise UsageError(
            f"{PREFIX}preset={name} is not possible: the pair {pair.name} has no presets (they "
            "stand under `presets` in a pair's file)"
        )
    if name not in pair.presets:
        nearest = difflib.get_close_matches(name, pair.presets, n=len(pair.presets), cutoff=0)
        raise UsageError(
            f"{PREFIX}preset={name} is not a preset of the pair {pair.name} (allowed: "
            f"{', '.join(nearest)})"
        )
    if method == "inject":
        raise UsageError(
            f"{PREFIX}preset={name} does not go with {PREFIX}method=inject (allowed: replay, none "
            "or base): an injection's settings stand under `inject` in the pair's file"
        )
    return {**pair.replay, **pair.presets[name]}


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
            f"replay_thresholds={path} is not allowed (allowed: {AS_TYPED['thresholds']})"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"replay_thresholds={path} holds no entropies per layer, as "
            '{"thresholds": {"0": 1.25, "1": 2.5}} does'
        ) from error


def _harness_arguments(protocol: Protocol) -> dict[str, Any]:
    """Return the protocol's settings that the harness's class takes in its constructor."""
    names = ("min_pixels", "max_pixels", "max_num_frames")
    values = {name: getattr(protocol, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
