"""Faults in the middle of a real run, by the document that is being answered."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationMixin

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
AT = 3  # the step at which the loop fails


def install(faults: dict[Any, str], now: Callable[[], list[Any]]) -> None:
    """Let documents fail at a stage: document → nan, loop, base, vision, or decode.

    ``now`` says which documents are being answered. ``loop``, ``vision`` and ``decode`` run out of
    memory, ``base`` raises something else, and ``nan`` makes one step's loss no number.
    """
    from replay_core import steered
    from replay_core.model.call import DecoderCall
    from replay_core.problem import ReplayProblem

    def among(kind: str) -> list[int]:
        return [place for place, document in enumerate(now()) if faults.get(document) == kind]

    activations, losses = DecoderCall.activations, ReplayProblem.losses
    features, generate = steered.visual_features, GenerationMixin.generate
    steps: dict[str, Any] = {"of": None, "taken": 0}

    def failing_losses(problem: ReplayProblem, delta: Any) -> Any:
        if steps["of"] is not problem:
            steps.update(of=problem, taken=0)
        steps["taken"] += 1
        found = losses(problem, delta)
        if steps["taken"] == AT:
            if among("loop"):
                raise torch.OutOfMemoryError(FULL)
            for place in among("nan"):
                found = found + torch.where(torch.arange(len(found)) == place, torch.nan, 0.0)
        return found

    def failing_pass(call: DecoderCall, layers: Any, **more: Any) -> Any:
        if call.anatomy.model.training is False and among("base") and not torch.is_grad_enabled():
            raise ValueError("the base's pass went wrong")
        return activations(call, layers, **more)

    def failing_features(model: Any, inputs: Any) -> Any:
        if among("vision"):
            raise torch.OutOfMemoryError(FULL)
        return features(model, inputs)

    def failing_generate(model: Any, **arguments: Any) -> Any:
        if among("decode"):
            raise torch.OutOfMemoryError(FULL)
        return generate(model, **arguments)

    DecoderCall.activations = failing_pass  # type: ignore[method-assign]
    ReplayProblem.losses = failing_losses  # type: ignore[method-assign]
    steered.visual_features = failing_features
    GenerationMixin.generate = failing_generate
