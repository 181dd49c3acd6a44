"""What lmms-eval's own flags may say to a replaying model; and what its classes make of it."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from loguru import logger

from replay_adapters.lmms_eval import MODEL_NAMES
from replay_core import UsageError

ONE_AT_A_TIME = ("internvl_hf_replay", "llava_hf_replay")
DEFAULT_SEEDS = (0, 1234, 1234, 1234)
NUMBERS = ("temperature", "top_p", "top_k", "num_beams", "max_new_tokens")


def check_arguments(model: str, batch_size: int | str, gen_kwargs: str) -> None:
    """Check the flags that lmms-eval's classes take to mean a number, before one is built.

    Raises:
        UsageError: ``--batch_size`` is none that the class can answer in, or ``--gen_kwargs`` is
            no list of settings or holds a word where a number belongs.
    """
    if model in MODEL_NAMES:
        _check_batch_size(model, str(batch_size))
        _check_generation(gen_kwargs)


def _check_batch_size(model: str, given: str) -> None:
    number = int(given) if given.strip().isdecimal() else 0
    parent = model.removesuffix("_replay")
    if number < 1:
        allowed = "1" if model in ONE_AT_A_TIME else "1, 2, 3 and so on"
        raise UsageError(
            f"--batch_size {given} is not allowed: lmms-eval's {parent} class does not look for a "
            f"size itself (allowed: {allowed})"
        )
    if number > 1 and model in ONE_AT_A_TIME:
        raise UsageError(
            f"--batch_size {given} is not allowed: lmms-eval's {parent} class answers one prompt "
            "at a time (allowed: 1)"
        )


def _check_generation(given: str) -> None:
    for name, value in parse_generation(given).items():
        if name in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(
                f"--gen_kwargs {name}={value} is not allowed (allowed: a number, as in "
                f"{name}={'0.7' if name in ('temperature', 'top_p') else '5'})"
            )


def parse_generation(given: str | None) -> dict[str, Any]:
    """Return the settings in ``--gen_kwargs``, as lmms-eval reads them.

    Raises:
        UsageError: it is no list of name=value pairs.
    """
    from lmms_eval.utils import simple_parse_args_string

    try:
        return dict(simple_parse_args_string(given or ""))
    except ValueError as error:
        raise UsageError(
            f"--gen_kwargs {given} is not a list of name=value pairs with commas between"
        ) from error


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
