"""How lmms-eval scores the answers of a run: in how many threads, and those that name no option."""

import sys
import threading
from typing import Any

from loguru import logger

from replay_adapters.session.session import Session
from replay_core import UsageError


def scoring_threads(asked: int) -> int:
    r"""Return how many threads may score: one where a task's scorer has loaded math_verify.

    math_verify limits its time (5 seconds for each parse and each comparison) by signals, which
    only the main thread can set; in lmms-eval's pool it raises, and the ``*_reasoning`` scorers
    take that for a wrong answer: ``\boxed{\frac{7}{2}}`` scores 0 where 3.5 is right. Without its
    limits it would work in a pool, but ``9^{9^{9}}`` would hang there for ever. One worker is the
    main thread itself, so that the limits hold. To be dropped when math_verify can be called from
    other threads.

    Raises:
        UsageError: the evaluation itself does not run in the main thread.
    """
    if "math_verify" not in sys.modules:
        return asked
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "this task's scorer uses math_verify, whose time limits work in the main thread only; "
            "run the evaluation there"
        )
    if asked > 1:
        logger.info(
            f"replay: answers are scored in 1 thread, not {asked}: a scorer of this run uses "
            "math_verify, which fails in any but the main thread"
        )
    return 1


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
