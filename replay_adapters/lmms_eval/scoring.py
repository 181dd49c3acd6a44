"""What scores the answers of a run of lmms-eval, and in how many threads."""

import inspect
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loguru import logger

from replay_adapters.session.session import Session
from replay_core import UsageError

# Scorers that give an answer without an option a random one.
_DRAWING = ("mmmu.utils.", "mmmu_pro.utils.", "video_holmes.utils.")


def scoring_threads(asked: int, scorers: Iterable[str] = ()) -> int:
    r"""Return how many threads may score: one with math_verify, or with ``scorers`` that draw.

    math_verify limits its time (5 seconds for each parse and each comparison) by signals, which
    only the main thread can set; in lmms-eval's pool it raises, and the ``*_reasoning`` scorers
    take that for a wrong answer: ``\boxed{\frac{7}{2}}`` scores 0 where 3.5 is right. Without its
    limits it would work in a pool, but ``9^{9^{9}}`` would hang there for ever. One worker is the
    main thread itself, so that the limits hold. To be dropped when math_verify can be called from
    other threads.

    The scorers of MMMU, MMMU-Pro and Video-Holmes give an answer that names no option a random one,
    from a stream that lmms-eval seeds: in several threads the same answers have other scores in
    each run.

    Raises:
        UsageError: the evaluation itself does not run in the main thread.
    """
    verifies = "math_verify" in sys.modules
    if verifies and threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "this task's scorer uses math_verify, whose time limits work in the main thread only; "
            "run the evaluation there"
        )
    why = "draws an option for an answer that names none" if _draw(scorers) else None
    if verifies:
        why = "uses math_verify, which fails in any but the main thread"
    if why and asked > 1:
        logger.info(
            f"replay: answers are scored in 1 thread, not {asked}: a scorer of this run {why}"
        )
    return 1 if why else asked


def _draw(scorers: Iterable[str]) -> bool:
    return any(scorer.startswith(_DRAWING) for scorer in scorers)


def scorers(tasks: Mapping[Any, Any]) -> dict[str, str]:
    """Return task → the function that scores it, of the tasks and groups of the harness.

    ``mmmu.utils.mmmu_process_results`` is a function of ``lmms_eval/tasks/mmmu/utils.py``; a task
    with one from elsewhere is left out.
    """
    found: dict[str, str] = {}
    for name, task in tasks.items():
        if isinstance(task, Mapping):
            found |= scorers(task)
        elif scorer := scorer_of(task):
            found[str(name)] = scorer
    return found


def scorer_of(task: Any) -> str:
    """Return the function of the harness that scores a task; empty where it is not one of those."""
    function = getattr(getattr(task, "config", None), "process_results", None)
    if not inspect.isfunction(function):
        return ""
    import lmms_eval.tasks

    file = Path(inspect.unwrap(function).__code__.co_filename)
    harness = Path(lmms_eval.tasks.__file__).parent
    if not file.is_relative_to(harness):
        return ""
    module = file.relative_to(harness).with_suffix("")
    # A function that another one made is known by its maker.
    return ".".join([*module.parts, function.__qualname__.partition(".")[0]])


def no_option_is_wrong(
    session: Session, original: Any, judge: Any, data: dict[str, Any], *rest: Any
) -> dict[str, Any]:
    """Stand in for HR-Bench's ``get_chat_response``; say "Z", its word for none, for no option.

    Where its judge cannot be asked, its result lacks ``gpt_prediction``, and where the judge names
    no option it is False: both raise after generation, and no answer of any task is written. The
    judge is asked ten times, so that it is not without a key.
    """
    if judge.api_key in ("", "YOUR_API_KEY"):
        found = judge.can_infer(data["prediction"], data["options"])
        return {**data, "gpt_prediction": found or "Z"}
    told = original(judge, data, *rest)
    return {**told, "gpt_prediction": told.get("gpt_prediction") or "Z"}
