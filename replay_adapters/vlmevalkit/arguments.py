"""From a model's arguments in VLMEvalKit to the resolved settings, without the harness."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from replay_adapters.settings.options import Settings, check_checkpoints, resolve
from replay_adapters.settings.processors import processor_revision
from replay_adapters.settings.run_options import PAIR_OPTIONS, PREFIX, REPLAY_OPTIONS
from replay_adapters.vlmevalkit import CLASSES, NOT_IN_REPLAY
from replay_core import UsageError
from replay_core.errors import did_you_mean
from replay_core.pair.identity import checkpoint_revision
from replay_core.pair.lora import adapted_base

# What Qwen2VLChat and Qwen3VLChat take; they swallow any other argument without a word.
_COMMON = (
    *("min_pixels", "max_pixels", "total_pixels", "max_new_tokens", "top_p", "top_k"),
    *("temperature", "repetition_penalty", "use_custom_prompt", "system_prompt", "post_process"),
    *("verbose", "fps", "nframe"),
)
CLASS_ARGUMENTS = {
    "Qwen2VLChatReplay": (*_COMMON, "do_sample"),
    "Qwen3VLChatReplay": (*_COMMON, "presence_penalty"),
}
OUR_ARGUMENTS = ("samples", "processor", "device", "attn_implementation")
# What --replay takes; "method" is refused by the launcher, with its reason.
_REPLAY = [
    option
    for option in REPLAY_OPTIONS
    if option == f"{PREFIX}method" or option.removeprefix(PREFIX) not in NOT_IN_REPLAY
]
_TAKEN = sorted({*_REPLAY, *sum(CLASS_ARGUMENTS.values(), ()), *OUR_ARGUMENTS, "dtype"})
_DECODING = ("max_new_tokens", "top_p", "top_k", "temperature", "repetition_penalty")


@dataclass(frozen=True)
class Planned:
    """One model of a run, checked and resolved.

    ``arguments`` are what it was planned from, ``harness`` the arguments of the harness's class;
    ``greedy``, whether its own sampling is replaced by plain argmax; ``fingerprint``, 16 digits
    that change with settings, weights and versions.
    """

    arguments: dict[str, Any]
    class_name: str
    settings: Settings
    samples: int
    greedy: bool
    device: str | None
    attn_implementation: str | None
    harness: dict[str, Any]
    fingerprint: str


def plan(arguments: Mapping[str, Any], class_name: str | None = None) -> Planned:
    """Return what a model with these arguments does; ``class_name`` None reads the checkpoint.

    Reads no weights into memory. Arguments are those of ``resolve``, of the harness's class, and
    ``samples``, ``processor`` (where the processor is loaded from), ``device`` and
    ``attn_implementation``; ``model_path`` is another name of ``pretrained``, as the harness calls
    it.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    if given.pop("use_vllm", False) or given.pop("use_lmdeploy", False):
        raise UsageError(
            "use_vllm and use_lmdeploy are not possible: replay needs the model itself"
        )
    if "model_path" in given:
        given["pretrained"] = given.pop("model_path")
    settings = resolve(given)
    if "processor" in settings.rest:
        pair = settings.pair.model_copy(update={"processor": settings.rest["processor"]})
        settings = replace(settings, pair=pair)
    if settings.journal is not None:
        raise UsageError(
            "replay_journal is for lmms-eval only: in VLMEvalKit every sample is kept anyway, and "
            "a run that is started again goes on behind the last one"
        )
    config = check_checkpoints(settings)
    fitting = [name for name, (_, types) in CLASSES.items() if config.model_type in types]
    if not fitting or class_name not in (None, *fitting):
        wanted = CLASSES if class_name is None else [class_name]
        allowed = ", ".join(kind for name in wanted for kind in CLASSES[name][1])
        raise UsageError(
            f"{settings.pair.policy} is a {config.model_type} checkpoint, which "
            f"{' and '.join(wanted)} cannot answer (allowed: {allowed})"
        )
    chosen = fitting[0]
    _refuse_unknown(settings.rest, chosen)
    samples = _samples(settings.rest)
    harness, greedy = _harness_arguments(settings, chosen, samples)
    return Planned(
        arguments=dict(arguments),
        class_name=chosen,
        settings=settings,
        samples=samples,
        greedy=greedy,
        device=settings.rest.get("device"),
        attn_implementation=settings.rest.get("attn_implementation"),
        harness=harness,
        fingerprint=_fingerprint(settings, chosen),
    )


def parse_options(text: str) -> dict[str, Any]:
    """Return what ``--replay NAME=VALUE,NAME=VALUE`` says, under the arguments' full names.

    Names of replay options stand without their ``replay_``; a comma inside brackets does not end
    a value.

    Raises:
        UsageError: a part is no ``NAME=VALUE``.
    """
    options: dict[str, Any] = {}
    for part in re.split(r",(?![^\[]*\])", text):
        name, equals, value = part.strip().partition("=")
        if not name or not equals:
            raise UsageError(f"--replay {text} is not a list of NAME=VALUE with commas between")
        if PREFIX + name in _REPLAY:
            name = PREFIX + name
        elif not name.startswith(PREFIX) and name not in _TAKEN:
            allowed = [option.removeprefix(PREFIX) for option in _TAKEN]
            raise UsageError(
                f"--replay {name} is not an option; {did_you_mean(name, allowed)}"
                f"Options: {', '.join(allowed)}"
            )
        options[name] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    """Return a number or a truth value where the text is one; layers stay text for ``resolve``."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return text if isinstance(value, list) else value


def _refuse_unknown(rest: Mapping[str, Any], class_name: str) -> None:
    known = {*CLASS_ARGUMENTS[class_name], *OUR_ARGUMENTS, *PAIR_OPTIONS}
    for name in rest:
        if name not in known | {"max_num_frames"}:
            raise UsageError(
                f"{name} is not an argument of {class_name}; "
                f"{did_you_mean(name, [*sorted(known), *_TAKEN])}"
                f"Arguments: {', '.join(sorted(known))}, and the options {PREFIX}…"
            )


def _samples(rest: Mapping[str, Any]) -> int:
    samples = rest.get("samples", 1)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise UsageError(f"samples={samples} is not allowed (allowed: a whole number from 1 on)")
    return samples


def _harness_arguments(
    settings: Settings, class_name: str, samples: int
) -> tuple[dict[str, Any], bool]:
    """Return the arguments of the harness's class, and whether it decodes greedily.

    The pair's decoding stands behind what was given. A temperature of 0 means argmax, which the
    classes cannot be told. Several samples need a temperature above 0, and are drawn from the whole
    distribution where neither top_p nor top_k was given: the classes' own top_k of 1 would make
    them all equal.
    """
    values = {k: v for k, v in settings.rest.items() if k not in OUR_ARGUMENTS}
    if "max_num_frames" in values:
        frames = values.pop("max_num_frames")
        values.setdefault("nframe", frames)
    ours = {k: v for k, v in settings.protocol.generation.items() if k in _DECODING}
    if samples > 1:
        ours.pop("temperature", None)
    values = {"use_custom_prompt": False, **ours, **values}
    if settings.protocol.system_prompt is not None:
        values.setdefault("system_prompt", settings.protocol.system_prompt)
    temperature = values.get("temperature")
    greedy = values.get("do_sample") is False or temperature == 0
    if samples > 1:
        if greedy or temperature is None:
            raise UsageError(
                f"samples={samples} needs a temperature above 0, or all samples would be equal; "
                "give temperature=1.0, as in --replay temperature=1.0"
            )
        values = {"top_p": 1.0, "top_k": 0, **values}
        if "do_sample" in CLASS_ARGUMENTS[class_name]:
            values["do_sample"] = True
    if temperature == 0:
        del values["temperature"]
    return values, greedy


def _fingerprint(settings: Settings, chosen: str) -> str:
    """Return 16 digits of everything an answer depends on; devices are left out."""
    method, pair = settings.config.method, settings.pair
    onto = pair.base if adapted_base(pair.policy) is not None else None
    revisions = [checkpoint_revision(pair.policy, onto=onto), processor_revision(settings)]
    if method != "none":
        revisions.append(checkpoint_revision(pair.base))
    anywhere = {name: value for name, value in settings.rest.items() if name != "device"}
    made = replace(settings, rest=anywhere)
    return made.fingerprint(chosen, revisions, version("activation-replay"))
