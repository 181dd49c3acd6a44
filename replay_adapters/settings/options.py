"""From a harness's option strings to one resolved set of settings.

Precedence: command line > preset by name > pair file > task file > harness.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from loguru import logger
from pydantic import BaseModel, ValidationError

from replay_adapters.settings.benchmarks import (
    BARE_QUESTIONS,
    answers_calls,
    asked_bare,
    without_loop,
)
from replay_adapters.settings.decoders import check_decoder, engine_options
from replay_adapters.settings.devices import check_device
from replay_adapters.settings.harness_options import checked_arguments
from replay_adapters.settings.pairs import PairFile, Protocol, read_pair
from replay_adapters.settings.resources import expanded
from replay_adapters.settings.run_options import (
    AS_TYPED,
    ENGINE_OPTIONS,
    ENGINE_PREFIX,
    METHOD_OPTIONS,
    PREFIX,
    REPLAY_OPTIONS,
    RunOptions,
)
from replay_adapters.settings.tools import Boxes
from replay_core import ReplayConfig, UsageError
from replay_core.decoding.options import EngineOptions, vllm_version
from replay_core.errors import did_you_mean, sentence, shown
from replay_core.pair.lora import adapted_base

EMBEDDED_PAIR = "demo"
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Settings:
    """What one run does, after all sources have been put together.

    ``rest`` are the arguments that go on to the harness's own class. ``base_device`` and
    ``base_quantization`` say where and in how many bits the base is held, when not as the policy;
    ``journal`` is the file that keeps answers for a run that is started again, ``store`` the folder
    that keeps what the base reads and x, up to ``store_gb``; ``engine`` has the settings of vLLM
    where that writes the answers; ``preset`` is the name of the pair's
    preset that was asked for, whose values are in ``config``. ``turns`` and ``boxes`` are about
    conversations with a tool.
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
    turns: Literal["again", "reuse"] = "again"
    boxes: Boxes = "mapped"
    store: Path | None = None
    store_gb: float = 50.0
    engine: EngineOptions | None = None

    def check_tasks(self, tasks: Iterable[str], *, loop: bool | None = None) -> None:
        """Raise UsageError when the pair is not meant for one of ``tasks``; warn of bare questions.

        ``loop``: whether they answer a tool's calls, None where only their names are known. Tasks
        that do not would be asked in two contradicting ways by a pair whose prompt offers a tool.
        """
        tasks = list(tasks)
        for task in tasks if self.protocol.tools is not None else ():
            if not (answers_calls(task) is not False if loop is None else loop):
                raise UsageError(without_loop(task, self.pair.name, self.protocol.tools.name))
        bare = [name for name in tasks if name.startswith(BARE_QUESTIONS)]
        if bare and self.protocol.question_template is None:
            logger.warning(asked_bare(bare[0], self.protocol_name))
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
        written: dict[str, Any] = {}
        if self.engine is not None:
            written = {"decoder": f"vllm {vllm_version()}", "engine": self.engine.identity()}
        return {
            **written,
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
            "turns": self.turns,
            "boxes": self.boxes,
            "harness_arguments": {key: str(value) for key, value in self.rest.items()},
        }

    def fingerprint(self, *more: Any, revisions: Iterable[str] = ()) -> str:
        """Return 16 digits that change with any setting, or with what else is named.

        Where the ``revisions`` of all checkpoints are known, it does not matter where they lie.
        """
        resolved, known = self.resolved(), list(revisions)
        if known and all(known):
            for place in ("pair", "policy", "base", "processor", "config"):
                del resolved[place]
        text = json.dumps([resolved, known, *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(arguments: Mapping[str, Any]) -> Settings:
    """Return the settings that a harness's model arguments ask for.

    Reads no weights, and of checkpoints at most their configs.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    _refuse_unknown(given)
    run = _read(RunOptions, given)
    rest = dict(run.model_extra or {})
    typed = {k.removeprefix(PREFIX): rest.pop(k) for k in METHOD_OPTIONS if k in rest}
    engine = engine_options(run.replay_decode, rest)
    rest = checked_arguments(rest)
    method = typed.get("method")
    pair = _pair(run, alone=method in ("none", "amortised"))
    preset = _preset(pair, run.replay_preset, method)
    config = _config({**preset, **typed})
    _refuse_unread(typed, run, config)
    named = run.replay_protocol or ("task" if pair.protocol == Protocol() else "pair")
    protocol = pair.protocol if named == "pair" else Protocol()
    journal = run.replay_journal
    settings = Settings(
        pair=pair,
        config=config,
        protocol=protocol,
        protocol_name=named,
        dtype=run.dtype or pair.dtype,
        rest=checked_arguments({**protocol.harness_arguments(), **rest}),
        base_device=run.replay_base_device,
        base_quantization=run.replay_base_quantization,
        journal=None if journal is None else expanded(journal),
        preset=run.replay_preset,
        turns=run.replay_turns,
        boxes=run.replay_boxes,
        store=None if run.replay_store is None else Path(run.replay_store).expanduser(),
        store_gb=run.replay_store_gb,
        engine=engine,
    )
    if engine is not None:
        check_decoder(config.method, pair)
    check_devices(settings)
    return settings


def check_devices(settings: Settings, *, here: bool = False) -> None:
    """Raise UsageError where a device that was named is none or, with ``here``, is not there."""
    check_device(f"{PREFIX}base_device", settings.base_device, here=here)
    check_device("device", settings.rest.get("device"), here=here)
    check_device("device_map", settings.rest.get("device_map"), spread=True, here=here)


def _refuse_unknown(given: Iterable[str]) -> None:
    for name in given:
        if name.startswith(PREFIX) and name not in REPLAY_OPTIONS:
            hint = did_you_mean(name, REPLAY_OPTIONS, cutoff=0.8)
            allowed = ", ".join(sorted(REPLAY_OPTIONS))
            raise UsageError(f"{shown(name)} is not an option; {hint}Options: {allowed}")
        if name.startswith(ENGINE_PREFIX) and name not in ENGINE_OPTIONS:
            hint = did_you_mean(name, ENGINE_OPTIONS, cutoff=0.8)
            raise UsageError(
                f"{shown(name)} is not an option of vLLM that can be given here; {hint}Options: "
                f"{', '.join(ENGINE_OPTIONS)}"
            )


def unread_options(config: ReplayConfig) -> dict[str, str]:
    """Return the options that settings leave without effect → the setting that does so."""
    found = dict(config.unread)
    if not config.asks_base:
        found |= dict.fromkeys(("base_device", "base_quantization"), f"method={config.method}")
    if config.method != "replay":
        found |= dict.fromkeys(("turns", "store", "store_gb"), f"method={config.method}")
    return found


def _refuse_unread(typed: Mapping[str, Any], run: RunOptions, config: ReplayConfig) -> None:
    """Refuse what was typed and would change nothing; a pair's file may have it all the same."""
    own = [name for name in RunOptions.model_fields if name in run.model_fields_set]
    given = {**typed, **{name.removeprefix(PREFIX): getattr(run, name) for name in own}}
    for name, why in unread_options(config).items():
        if name in given:
            raise UsageError(
                f"{PREFIX}{name}={shown(given[name])} changes nothing beside {PREFIX}{why}; leave "
                "one of the two out"
            )


def _read(model: type[_Model], values: Mapping[str, Any], prefix: str = "") -> _Model:
    try:
        return model(**values)
    except ValidationError as error:
        raise UsageError(sentence(error, model, prefix)) from error


def _pair(run: RunOptions, *, alone: bool) -> PairFile:
    """Return the pair that was named; the embedded one where nothing was.

    ``alone``: the policy answers without a base, which need not be named then.
    """
    policy, base = run.pretrained, run.replay_base
    if run.pair is not None:
        changes = {"policy": policy, "base": base}
        wanted = {role: where for role, where in changes.items() if where is not None}
        return read_pair(run.pair).model_copy(update=wanted)
    if policy is None:
        if base is not None:
            raise UsageError(
                f"replay_base={shown(base)} needs its policy: give pretrained=POLICY, or pair=NAME"
            )
        return read_pair(EMBEDDED_PAIR)
    base = base or adapted_base(policy) or (policy if alone else None)
    if base is None:
        raise UsageError(
            f"replay_base is missing: pretrained={shown(policy)} names only the policy; add "
            "replay_base=BASE (the checkpoint before RLVR), or take pair=NAME, a LoRA adapter, "
            "or replay_method=none"
        )
    return PairFile(name=Path(policy).name, policy=policy, base=base)


def _config(options: Mapping[str, Any]) -> ReplayConfig:
    """Return the method's settings; layers and thresholds are more than a text."""
    values = dict(options)
    if isinstance(text := values.get("layers"), str) and text.strip().startswith("["):
        with suppress(ValueError, RecursionError):  # text that is no list is refused below
            values["layers"] = json.loads(text)
    if isinstance(given := values.get("thresholds"), str) and given not in ("dynamic", "release"):
        values["thresholds"] = read_thresholds(given)
    return _read(ReplayConfig, values, PREFIX)


def _preset(pair: PairFile, name: str | None, method: str | None) -> dict[str, Any]:
    """Return the settings that stand in a pair's file for a method, with a preset over them."""
    if name is None:
        return pair.inject if method == "inject" else pair.replay
    given = f"{PREFIX}preset={shown(name)}"
    if not pair.presets:
        raise UsageError(
            f"{given} is not possible: the pair {pair.name} has no presets (they stand under "
            "`presets` in a pair's file)"
        )
    if name not in pair.presets:
        nearest = get_close_matches(name, pair.presets, n=len(pair.presets), cutoff=0)
        raise UsageError(
            f"{given} is not a preset of the pair {pair.name} (allowed: {', '.join(nearest)})"
        )
    if method == "inject":
        raise UsageError(
            f"{given} does not go with {PREFIX}method=inject (allowed: replay, none or base): an "
            "injection's settings stand under `inject` in the pair's file"
        )
    return {**pair.replay, **pair.presets[name]}


def read_thresholds(path: str) -> dict[int, float]:
    """Return the entropies in nats, by layer, in a file of ``activation-replay thresholds``.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(expanded(path).read_text(encoding="utf-8"))
        entropies = {int(layer): nats for layer, nats in content["thresholds"].items()}
    except OSError as error:
        raise UsageError(
            f"replay_thresholds={shown(path)} is not allowed (allowed: {AS_TYPED['thresholds']})"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _no_entropies(path) from error
    if not entropies or not all(map(_is_entropy, entropies.values())):
        raise _no_entropies(path)
    return {layer: float(nats) for layer, nats in entropies.items()}


def _is_entropy(nats: Any) -> bool:
    return type(nats) in (int, float) and 0 < nats < math.inf


def _no_entropies(path: str) -> UsageError:
    return UsageError(
        f"replay_thresholds={shown(path)} holds no entropies per layer, as "
        '{"thresholds": {"0": 1.25, "1": 2.5}} does'
    )
