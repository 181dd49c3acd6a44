"""vLLM's engine, which decodes in a process of its own while the loop goes on in this one."""

import logging
import os
import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from replay_core.decoding.options import EngineOptions, vllm_version
from replay_core.decoding.prompts import Prompt
from replay_core.decoding.watch import children, end_with_this_process
from replay_core.errors import UsageError
from replay_core.faults import RunOver, told

# The most pictures of a prompt, where vLLM counts them.
_PICTURES = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completion:
    """One answer: its ids, the token or text that ends it included, and why it ended."""

    ids: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class _Request:
    prompt: Prompt
    settings: Mapping[str, Any]
    answered: "Future[Completion]"


class Engine:
    """One checkpoint in vLLM's engine.

    A thread hands requests over and takes answers back, so that :meth:`submit` returns at once.
    vLLM keys what it caches by the content of the features, never by a name: a prompt with another
    x is another prompt.

    Raises:
        UsageError: vLLM is not installed, or does not start with these options.
    """

    def __init__(self, checkpoint: str, tokenizer: str, dtype: str, options: EngineOptions) -> None:
        self.name = f"vllm {vllm_version()}"
        self.options = options
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        before = children()
        try:
            engine = _started(checkpoint, tokenizer, dtype, options)
        except Exception as error:
            raise UsageError(
                f"vLLM does not start with {checkpoint} ({told(error)}); what it wrote above says "
                "why: often vllm_gpu_memory_utilization is too large beside what else is there, or "
                "too small for vllm_max_model_len"
            ) from error
        self._watch = end_with_this_process(children() - before)
        thread = threading.Thread(
            target=_serve, args=(engine, self._requests), name="vllm", daemon=True
        )
        thread.start()
        self._close = weakref.finalize(self, _stop, engine, self._requests, thread)

    def submit(self, prompt: Prompt, settings: Mapping[str, Any]) -> "Future[Completion]":
        """Return where the answer to a prompt will be.

        ``settings`` are the arguments of vLLM's SamplingParams. The exception of a request that
        vLLM refuses is there in its place.
        """
        request = _Request(prompt, settings, Future())
        self._requests.put(request)
        return request.answered

    def close(self) -> None:
        """Stop the engine, whose memory is free then; what is not answered stays so."""
        self._close()


_engines: "weakref.WeakValueDictionary[tuple[Any, ...], Engine]" = weakref.WeakValueDictionary()


def engine_for(checkpoint: str, tokenizer: str, dtype: str, options: EngineOptions) -> Engine:
    """Return the engine of a checkpoint, which all arms of one process share while one holds it.

    Raises:
        UsageError: as :class:`Engine`.
    """
    key = (checkpoint, tokenizer, dtype, options)
    engine = _engines.get(key)
    if engine is None:
        _engines[key] = engine = Engine(*key)
    return engine


def _started(checkpoint: str, tokenizer: str, dtype: str, options: EngineOptions) -> Any:
    # Read when vLLM is first imported. It reports its use over the network where nobody says no,
    # and forks a process whose threads of torch are already running.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import EngineArgs  # type: ignore[import-not-found]
    from vllm.usage.usage_lib import UsageContext  # type: ignore[import-not-found]
    from vllm.v1.engine.llm_engine import LLMEngine  # type: ignore[import-not-found]

    given = EngineArgs(
        model=checkpoint,
        tokenizer=tokenizer,
        dtype=dtype,
        generation_config="vllm",  # decoding is resolved before it comes here
        enable_mm_embeds=True,
        limit_mm_per_prompt=_shown_at_most(checkpoint),
        disable_log_stats=True,
        **options.model_dump(exclude_none=True),
    )
    return LLMEngine.from_engine_args(given, usage_context=UsageContext.LLM_CLASS)


def _shown_at_most(checkpoint: str) -> dict[str, int]:
    """Return vLLM's limits of pixels, which never come: features pass them, and 0 means no tower.

    The class of Qwen3-VL leaves the deepstack features out with the tower.
    """
    vision = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False).vision_config
    deep = getattr(vision, "deepstack_visual_indexes", None)
    return {"image": _PICTURES if deep else 0, "video": 0}


def _stop(engine: Any, requests: "queue.SimpleQueue[_Request | None]", thread: Any) -> None:
    requests.put(None)
    thread.join(timeout=30)
    engine.engine_core.shutdown()


def _serve(engine: Any, requests: "queue.SimpleQueue[_Request | None]") -> None:
    """Hand requests to the engine and answers to who waits for them, until None comes."""
    waiting: dict[str, _Request] = {}
    number = 0
    try:
        while True:
            for request in _arrived(requests, wait=not waiting):
                if request is None:
                    raise _Closed
                number += 1
                try:
                    engine.add_request(str(number), *_in_vllms_words(request))
                except Exception as error:  # vLLM's, of this prompt: too long, say
                    request.answered.set_exception(error)
                else:
                    waiting[str(number)] = request
            if waiting:
                for output in engine.step():
                    if output.finished and (done := waiting.pop(output.request_id, None)):
                        done.answered.set_result(_completion(output))
    except _Closed:
        gone = RunOver("vLLM's engine was closed before it had answered")
    except Exception as error:
        _log.error("vLLM's engine has ended", exc_info=error)
        gone = RunOver(f"vLLM's engine has ended ({told(error)}); what it wrote above says why")
    for request in waiting.values():
        request.answered.set_exception(gone)
    while True:
        late = requests.get()
        if late is None:
            return
        late.answered.set_exception(gone)


class _Closed(Exception):
    """The engine is wanted no more."""


def _arrived(
    requests: "queue.SimpleQueue[_Request | None]", *, wait: bool
) -> Sequence[_Request | None]:
    """Return what has arrived; with ``wait``, at least one."""
    found = [requests.get()] if wait else []
    while True:
        try:
            found.append(requests.get_nowait())
        except queue.Empty:
            return found


def _in_vllms_words(request: _Request) -> tuple[dict[str, Any], Any]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt.ids)}
    data = {}
    for modality, seen in request.prompt.seen.items():
        data[modality] = {
            f"{modality}_embeds": seen.embeds,
            f"{modality}_grid_thw": seen.grid,
        }
        if seen.seconds is not None:
            data[modality]["second_per_grid_ts"] = seen.seconds
    if data:
        prompt["multi_modal_data"] = data
    whole = RequestOutputKind.FINAL_ONLY
    return prompt, SamplingParams(**request.settings, output_kind=whole)


def _completion(output: Any) -> Completion:
    (one,) = output.outputs
    return Completion(tuple(one.token_ids), str(one.finish_reason))
