"""What a model of ours may be given in VLMEvalKit, and how it is typed; needs no torch."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from replay_adapters.settings.run_options import (
    ENGINE_OPTIONS,
    PAIR_OPTIONS,
    PREFIX,
    REPLAY_OPTIONS,
)
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown

# Model class → the class of the harness that it is, and the architectures that one knows.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Qwen2VLChatReplay": ("Qwen2VLChat", ("qwen2_vl", "qwen2_5_vl")),
    "Qwen3VLChatReplay": ("Qwen3VLChat", ("qwen3_vl", "qwen3_vl_moe")),
}

# Option that --replay does not take → why.
NOT_IN_REPLAY = {
    "pair": "the model's name says it",
    "pretrained": "for run files",
    "base": "for run files",
    "method": "the ending of the model's name says it",
    "journal": "for lmms-eval only",
}

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
_OURS = {*_REPLAY, *ENGINE_OPTIONS, *OUR_ARGUMENTS, "dtype"}
_TAKEN = sorted({*_OURS, *sum(CLASS_ARGUMENTS.values(), ())})


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
            raise UsageError(
                f"--replay {shown(text)} is not a list of NAME=VALUE with commas between"
            )
        if PREFIX + name in _REPLAY:
            name = PREFIX + name
        elif not name.startswith(PREFIX) and name not in _TAKEN:
            allowed = [option.removeprefix(PREFIX) for option in _TAKEN]
            raise UsageError(
                f"--replay {shown(name)} is not an option; {did_you_mean(name, allowed)}"
                f"Options: {', '.join(allowed)}"
            )
        if name in options:
            raise UsageError(
                f"--replay names {shown(name)} twice: {shown(options[name])} and {shown(value)} "
                "(allowed: once)"
            )
        options[name] = _value(value.strip())
        if options[name] is None:
            raise UsageError(
                f"{shown(name)}=null is not allowed (allowed: a value; an option that is left out "
                "has its default)"
            )
    return options


def shared(options: Mapping[str, Any], methods: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return, by method, the options that are typed once for models of several methods.

    What one of them leaves without effect and another reads is of the other alone: a threshold is
    not given to the policy alone that stands beside its replay. What none reads is left to all, to
    be refused.
    """
    from replay_adapters.settings.options import unread_options  # here, since it needs torch
    from replay_core import ReplayConfig

    unread = {}
    for method in methods:
        names = unread_options(ReplayConfig.model_validate({"method": method}))
        unread[method] = {PREFIX + name for name in names}
    no_one = set.intersection(*unread.values()) if unread else set()
    return {
        method: {k: v for k, v in options.items() if k not in unread[method] - no_one}
        for method in methods
    }


def _value(text: str) -> Any:
    """Return a number or a truth value where the text is one; layers stay text for ``resolve``."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list) else value


def refuse_unknown(given: Iterable[str], class_name: str) -> None:
    """Raise UsageError for an argument that neither a class of the harness nor we take."""
    known = {*CLASS_ARGUMENTS[class_name], *OUR_ARGUMENTS, *PAIR_OPTIONS}
    for name in given:
        if name not in known | {"max_num_frames"}:
            raise UsageError(
                f"{shown(name)} is not an argument of {class_name}; "
                f"{did_you_mean(name, [*sorted(known), *_TAKEN])}"
                f"Arguments: {', '.join(sorted(known))}, and the options {PREFIX}…"
            )
