"""What lmms-eval's own flags may say to a replaying model; and what its classes make of it."""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from loguru import logger

from replay_adapters.lmms_eval.names import MODEL_NAMES
from replay_adapters.settings.harness_options import checked_decoding
from replay_adapters.settings.options import Settings
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown

ONE_AT_A_TIME = ("internvl_hf_replay", "llava_hf_replay")
DEFAULT_SEEDS = (0, 1234, 1234, 1234)
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def check_arguments(model: str, batch_size: int | str | None, gen_kwargs: str | None) -> None:
    """Check the flags that lmms-eval's classes take to mean a number, before one is built.

    Raises:
        UsageError: ``--batch_size`` is none that the class can answer in, or ``--gen_kwargs`` is
            no list of settings, or holds one that is not known or not allowed.
    """
    if model in MODEL_NAMES:
        _check_batch_size(model, str(batch_size))
        checked_decoding(parse_generation(gen_kwargs), "--gen_kwargs ")


def _check_batch_size(model: str, given: str) -> None:
    number = int(given) if re.fullmatch(r"[0-9]{1,9}", given.strip()) else 0
    parent = model.removesuffix("_replay")
    if number < 1:
        allowed = "1" if model in ONE_AT_A_TIME else "1, 2, 3 and so on"
        raise UsageError(
            f"--batch_size {shown(given)} is not allowed: lmms-eval's {parent} class does not look "
            f"for a size itself (allowed: {allowed})"
        )
    if number > 1 and model in ONE_AT_A_TIME:
        raise UsageError(
            f"--batch_size {shown(given)} is not allowed: lmms-eval's {parent} class answers one "
            "prompt at a time (allowed: 1)"
        )


def parse_model_args(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments in ``--model_args``, as lmms-eval reads them.

    Raises:
        UsageError: it is no list of name=value pairs, or names one twice or what is a flag.
    """
    found = dict(given) if isinstance(given, Mapping) else _parsed("--model_args", given or "")
    for name in ("batch_size", "max_batch_size"):
        if name in found:
            raise UsageError(
                f"{name}={shown(found[name])} does not go into --model_args (allowed: the flag "
                f"--{name})"
            )
    return found


def parse_generation(given: str | None) -> dict[str, Any]:
    """Return the settings in ``--gen_kwargs``, as lmms-eval reads them.

    Raises:
        UsageError: it is no list of name=value pairs, or names one twice.
    """
    return _parsed("--gen_kwargs", given or "")


def _parsed(flag: str, given: str) -> dict[str, Any]:
    from lmms_eval.utils import _smart_comma_split, handle_arg_string

    found: dict[str, Any] = {}
    for part in _smart_comma_split(given.strip()):
        name, equals, value = part.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise UsageError(
                f"{flag} {shown(given)} is not a list of name=value pairs with commas between"
            )
        if name in found:
            raise UsageError(
                f"{flag} names {shown(name)} twice: {shown(found[name])} and {shown(value)} "
                "(allowed: once)"
            )
        try:
            found[name] = handle_arg_string(value)
        except ValueError as error:  # digits that are no number, as a raised 2
            raise UsageError(f"{flag} {shown(name)}={shown(value)} is not a number") from error
    return found


def check_architecture(settings: Settings, model_type: str, allowed: Collection[str]) -> None:
    """Raise UsageError where a checkpoint is of none of the ``allowed`` architectures."""
    if model_type not in allowed:
        raise UsageError(
            f"{shown(settings.pair.policy)} is a {shown(model_type)} checkpoint, which this "
            f"--model name does not take (allowed: {', '.join(allowed)})"
        )


def check_known(parent: str, constructor: Any, arguments: Collection[str]) -> None:
    """Raise UsageError where a class of lmms-eval does not have an argument; it would assert so."""
    known = [*inspect.signature(constructor).parameters, "attn_implementation"]
    for name in arguments:
        if name not in known:
            raise UsageError(
                f"{shown(name)} is not a model argument of {parent}; {did_you_mean(name, known)}"
                f"Arguments: {', '.join(sorted(set(known) - {'kwargs'}))}"
            )


def check_system_prompt(model: Any, settings: Settings) -> None:
    """Raise UsageError where a pair has a system prompt and a simple class no place for it."""
    if not hasattr(model, "system_prompt"):
        raise UsageError(
            f"the pair {settings.pair.name} has a system prompt, for which lmms-eval's simple "
            f"class of {model.parent_name} has no place; take its chat class (without "
            "--force_simple), or replay_protocol=task"
        )


def unread(given: Mapping[str, Any], used: Mapping[str, Any], *, simple: bool) -> dict[str, Any]:
    """Return which of the command line's settings do not reach ``model.generate``.

    ``given`` is ``--gen_kwargs``, ``used`` what a class of lmms-eval calls ``generate`` with. Each
    class passes some settings on, drops all others without a word, and samples where the
    temperature is above 0, whatever ``do_sample`` says. The simple classes cut answers at ``until``
    themselves; the chat classes do not.
    """
    without_use = () if used.get("do_sample") else ("top_p", "top_k")  # of greedy decoding
    elsewhere = ("until",) if simple else ()
    return {
        name: value
        for name, value in given.items()
        if value and used.get(name) != value and name not in (*without_use, *elsewhere)
    }


def tell_unread(
    parent: str, given: Mapping[str, Any], used: Mapping[str, Any], *, simple: bool
) -> None:
    """Warn once of each setting that :func:`unread` finds; the answers are as upstream's."""
    for name, value in unread(given, used, simple=simple).items():
        _warn_unread(parent, name, str(value))


def tell_seed(seeds: Sequence[int | None] | None) -> None:
    """Warn where ``--seed`` is not upstream's default: sampling does not follow it."""
    if seeds is not None and tuple(seeds) != DEFAULT_SEEDS:
        told = ",".join(map(str, seeds))
        logger.warning(
            f"replay: --seed {told} does not reach sampling, which follows replay_seed, so that "
            "each answer is its document's and repeat's own"
        )


@cache
def _warn_unread(parent: str, name: str, value: str) -> None:
    logger.warning(
        f"replay: --gen_kwargs {name}={value} changes nothing: lmms-eval's {parent} class does not "
        "pass it on"
    )
