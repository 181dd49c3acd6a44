"""Answers written by vLLM, to prompts whose visual features were optimised with transformers."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from replay_core.decoding.engine import Completion, Engine
from replay_core.decoding.generation import Sampling, sampling_of
from replay_core.decoding.prompts import prompts_of
from replay_core.errors import UsageError
from replay_core.model.vision import Inputs, visual_features
from replay_core.result import ReplayResult
from replay_core.sampling import seeds_of_copies


class VllmDecoder:
    """Stands behind ``Steered.decode``: takes the same, returns the same.

    The policy's weights are held twice, by transformers for the loop and by vLLM: its modules have
    no backward pass, and their weights are packed for its kernels.

    ``pause`` is called with what waits for the answers; whoever has something to do meanwhile, as
    another batch to optimise, puts its own function there.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.options = engine.options
        self.pause: Callable[[Callable[[], None]], None] = at_once

    def decode(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        result: ReplayResult,
        generation: Mapping[str, Any],
        seeds: Sequence[int],
    ) -> Tensor:
        """Return prompts and answers (answers, prompt + t), as ``generate`` does.

        ``model`` is what ``generate`` would be asked of. ``seeds`` are one per prompt; sampled
        answers are drawn from vLLM's own streams, which they start, so that an answer is the same
        alone and in a batch. Without x the features are the policy's own.

        Raises:
            RunOver: ``generation`` asks for what vLLM does not do, or the engine has ended.
            UsageError: an answer needs more tokens than ``vllm_max_model_len`` leaves it.
            Exception: vLLM's own, where it refuses a prompt.
        """
        sampling = sampling_of(model, generation)
        features, flat = result.features, None
        if features is None:
            with torch.no_grad():
                features = visual_features(model, inputs)
        if features is not None:
            delta = result.delta
            flat = features.flat if delta is None else features.moved(delta)
        prompts = prompts_of(model, inputs, features, flat)
        copies = [prompt for prompt in prompts for _ in range(sampling.copies)]
        asked = [
            self._engine.submit(prompt, sampling.drawn_with(seed))
            for prompt, seed in zip(copies, seeds_of_copies(seeds, sampling.copies), strict=True)
        ]
        del features, flat, prompts, copies  # vLLM has them by now
        self.pause(lambda: _until_done(asked))
        answers = [request.result() for request in asked]
        for one in answers:
            _check_whole(one, sampling.limit)
        return _beside(inputs["input_ids"], answers, sampling)

    def close(self) -> None:
        """Let go of the engine; it stops when no one else holds it."""
        del self._engine


def at_once(waits: Callable[[], None]) -> None:
    """Wait, with nothing else to do."""
    waits()


def _until_done(asked: Sequence["Future[Completion]"]) -> None:
    wait(asked)


def _check_whole(answer: Completion, limit: int) -> None:
    """Raise where vLLM has cut an answer for another reason than the limit of new tokens."""
    if answer.reason == "length" and len(answer.ids) < limit:
        raise UsageError(
            f"the answer was cut after {len(answer.ids)} of {limit} tokens, where vLLM's "
            "max_model_len ended; give a larger vllm_max_model_len"
        )
    if answer.reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended an answer with {answer.reason!r}")


def _beside(prompts: Tensor, answers: Sequence[Completion], sampling: Sampling) -> Tensor:
    """Return prompts (batch, tokens) with their answers behind them, filled up on the right."""
    longest = max(len(one.ids) for one in answers)
    rows = [[*one.ids, *[sampling.pad] * (longest - len(one.ids))] for one in answers]
    repeated = prompts.repeat_interleave(sampling.copies, 0)
    return torch.cat([repeated, prompts.new_tensor(rows).reshape(len(rows), -1)], 1)
