"""Replay as a drop-in for ``model.generate``: optimise the visual tokens, then decode."""

import contextlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from replay_core.candidates import Window
from replay_core.config import ReplayConfig
from replay_core.descent import ReplayProblem, descend, describe, randomised
from replay_core.digest import token_digest
from replay_core.errors import UsageError
from replay_core.injection import Reading, injection_of, read
from replay_core.model.anatomy import (
    PIXELS,
    Anatomy,
    Inputs,
    VisualFeatures,
    check_backward,
    check_complete,
    check_pictured,
    visual_features,
    without_pixels,
)
from replay_core.model.call import decoder_call
from replay_core.model.padding import attention_mask_of, left_padded
from replay_core.outcome import Outcome, SampleReplay
from replay_core.pair.pair import Pair, frozen
from replay_core.record import Seconds
from replay_core.result import ReplayResult, raise_failure
from replay_core.seeds import check_seeds, stable_seed
from replay_core.targets import ReplayTargets, base_targets, prompt_of, settings_of


class Steered:
    """A pair that answers like its policy, with the visual tokens optimised first.

    Five lines without a harness::

        pair = load_pair("me/my-rl", "me/my-base")
        steered = Steered(pair, ReplayConfig(threshold=0.4, step_size=10))
        result = steered.optimise(inputs)        # the processor's whole output
        ids = steered.decode(inputs, result, max_new_tokens=64)
        print(result.samples[0].outcome, result.samples[0].loss_after)

    Prompts may be padded on either side; right padding is turned into left padding, so that
    answers begin behind the prompt in every row. Both models are left as they are found.

    Raises:
        UsageError: a layer is asked for that the models do not have, or that the base has lost.
    """

    def __init__(self, pair: Pair, config: ReplayConfig | None = None) -> None:
        self.pair = pair
        self.config = ReplayConfig() if config is None else config
        self.layers = self.config.layer_indices(
            pair.policy.model.config.get_text_config().num_hidden_layers
        )
        held, whole = len(pair.base.layers), len(pair.policy.layers)
        needed = whole if self.config.method == "base" else max(self.layers) + 1
        if self.config.method != "none" and held < needed:
            raise UsageError(
                f"the base was loaded with base_layers={held}, but this run needs {needed} of its "
                "layers"
            )
        if self.config.method == "replay":
            check_backward(pair.policy)

    def optimise(
        self,
        inputs: Inputs,
        *,
        targets: ReplayTargets | None = None,
        seeds: Sequence[int] | None = None,
    ) -> ReplayResult:
        """Return how a batch of prompts is steered (``inputs``: the processor's whole output).

        ``targets``, from :meth:`targets`, spare the base's pass of replay. ``seeds``, one per
        sample, draw the positions of the random arms; without them they follow from the prompts.

        Raises:
            UsageError: there is not one seed for each sample, or pixels are missing.
            ReplayError: with ``config.strict``, when a sample diverges or is not finite.
            torch.cuda.OutOfMemoryError: with ``config.strict``; else an outcome, like those.
        """
        started = time.perf_counter()
        batch = len(inputs["input_ids"])
        if seeds is not None:
            check_seeds(seeds, batch)
        if not self.config.steers:
            return ReplayResult(None, None, (SampleReplay(Outcome.OFF),) * batch)
        policy, base = self.pair.policy, self.pair.base
        _reset_peak(policy.model.device)
        with torch.inference_mode(False), torch.enable_grad(), frozen(policy.model, base.model):
            inputs = _own(left_padded(inputs))
            seeds = self.seeds(inputs) if seeds is None else seeds
            features = visual_features(policy.model, inputs)
            if features is None and self.config.positions == "visual":
                return ReplayResult(None, None, (SampleReplay(Outcome.NO_VISUAL_TOKENS),) * batch)
            try:
                if self.config.method == "inject":
                    return self._inject(inputs, features, seeds, started)
                if features is None:
                    none = (SampleReplay(Outcome.NO_VISUAL_TOKENS),) * batch
                    return ReplayResult(None, None, none)
                return self._replay(inputs, features, targets, seeds, started)
            except torch.cuda.OutOfMemoryError as error:
                if self.config.strict:
                    raise
                problem = str(error).splitlines()[0]
        torch.cuda.empty_cache()
        lost = (SampleReplay(Outcome.OUT_OF_MEMORY),) * batch
        zero = None if features is None else torch.zeros_like(features.flat)
        return ReplayResult(zero, features, lost, error=problem)

    def _replay(
        self,
        inputs: dict[str, Tensor],
        features: VisualFeatures,
        targets: ReplayTargets | None,
        seeds: Sequence[int],
        started: float,
    ) -> ReplayResult:
        window = Window.of(inputs, self.pair.policy, self.config, features)
        home = window.visual.device
        if targets is None:
            shared = features if self.pair.shared_vision else None
            targets = self._base_pass(inputs, shared, window, seeds).to(home)
        else:
            prompt = prompt_of(inputs["input_ids"], attention_mask_of(inputs))
            targets.check(prompt, self._target_settings)
        # "Before layer l" is behind layer l - 1, so that l itself need not run.
        depth = max(self.layers) + (self.config.boundary == "aligned")
        call = window.cut(decoder_call(self.pair.policy, inputs, features), depth)
        visual_row, visual_column = torch.nonzero(window.visual, as_tuple=True)
        problem = ReplayProblem(
            call,
            window.candidates,
            features,
            visual_row,
            visual_column,
            targets,
            self.config,
        )
        looped = time.perf_counter()
        descent = descend(problem)
        if self.config.x == "random":
            descent = randomised(problem, descent, seeds)
        samples = describe(problem, descent)
        if self.config.strict:
            raise_failure(samples)
        seconds = Seconds(base=looped - started, loop=time.perf_counter() - looped)
        peak = _peak(self.pair.policy.model.device)
        return ReplayResult(descent.delta, features, samples, seconds=seconds, peak_memory_mb=peak)

    def _inject(
        self,
        inputs: dict[str, Tensor],
        features: VisualFeatures | None,
        seeds: Sequence[int],
        started: float,
    ) -> ReplayResult:
        window = Window.of(inputs, self.pair.policy, self.config, features)
        policy = self._reading(self.pair.policy, inputs, features, window)
        with self.pair.as_base():
            shared = features if self.pair.shared_vision else None
            theirs, seen = self._for_base(inputs, shared)
            base = self._reading(self.pair.base, theirs, seen, window).to(window.visual.device)
        injection, samples = injection_of(
            base,
            policy,
            window.candidates,
            tuple(inputs["input_ids"].shape),  # type: ignore[arg-type]
            self.config,
            seeds=seeds,
        )
        if self.config.strict:
            raise_failure(samples)
        return ReplayResult(
            None,
            features,
            samples,
            injection=injection,
            seconds=Seconds(base=time.perf_counter() - started),
            peak_memory_mb=_peak(self.pair.policy.model.device),
        )

    def _reading(
        self, anatomy: Anatomy, inputs: Inputs, features: VisualFeatures | None, window: Window
    ) -> Reading:
        call = window.cut(decoder_call(anatomy, inputs, features), max(self.layers) + 1)
        candidates = window.candidates.to(inputs["input_ids"].device)
        return read(call, candidates, self.layers, self.config)

    def _for_base(
        self, inputs: Inputs, shared: VisualFeatures | None
    ) -> tuple[dict[str, Tensor], VisualFeatures | None]:
        """Return prompts and visual features on the base's device.

        ``shared`` are features that the base would compute alike; without them its own tower runs.
        """
        base = self.pair.base.model
        theirs = {name: value.to(base.device) for name, value in inputs.items()}
        if shared is None:
            return theirs, visual_features(base, theirs)
        return theirs, shared.to(base.device)

    @property
    def _target_settings(self) -> str:
        base = self.pair.base.model
        identity = f"{self.pair.base_revision or base.name_or_path} in {base.dtype}"
        return settings_of(self.config, self.layers, identity)

    @property
    def answering(self) -> Any:
        """The model whose answers are given."""
        answering = self.pair.base if self.config.method == "base" else self.pair.policy
        return answering.model

    def targets(self, inputs: Inputs, *, seeds: Sequence[int] | None = None) -> ReplayTargets:
        """Return the base's masks and target distributions for a batch, for later or elsewhere.

        Raises:
            UsageError: there is not one seed for each sample, or pixels are missing.
            ValueError: the batch has no visual tokens, so that there is nothing to match.
        """
        base = self.pair.base
        if seeds is not None:
            check_seeds(seeds, len(inputs["input_ids"]))
        with torch.inference_mode(False), frozen(base.model):
            inputs = _own(left_padded(inputs))
            if not any(key in inputs for key in PIXELS):
                check_pictured(base.model, inputs["input_ids"])
                raise ValueError("these prompts have no visual tokens, so there are no targets")
            seeds = self.seeds(inputs) if seeds is None else seeds
            return self._base_pass(inputs, None, Window.of(inputs, base, self.config), seeds)

    def _base_pass(
        self,
        inputs: dict[str, Tensor],
        shared: VisualFeatures | None,
        window: Window,
        seeds: Sequence[int],
    ) -> ReplayTargets:
        """Return the base's targets, on the base's device."""
        depth = max(self.layers) + 1
        with self.pair.as_base():
            theirs, features = self._for_base(inputs, shared)
            call = window.cut(decoder_call(self.pair.base, theirs, features), depth)
            return base_targets(
                call,
                window.candidates.to(theirs["input_ids"].device),
                self.layers,
                self.config,
                seeds=seeds,
                prompt=prompt_of(inputs["input_ids"], attention_mask_of(inputs)),
                settings=self._target_settings,
            )

    def seeds(self, inputs: Inputs) -> list[int]:
        """Return one seed per sample, from ``config.seed`` and the prompt's own tokens."""
        rows = zip(inputs["input_ids"], attention_mask_of(inputs).bool(), strict=True)
        return [stable_seed(self.config.seed, token_digest(row[kept])) for row, kept in rows]

    def decode(self, inputs: Inputs, result: ReplayResult, **generation: Any) -> Any:
        """Return what the policy's own ``generate`` returns for the prompts with x in place.

        ``generation`` is passed on: greedy, sampled, beams, ``num_return_sequences`` …
        """
        arguments = self._arguments(left_padded(inputs), result)
        with self._steering(result):
            return self.answering.generate(**arguments, **generation)

    @contextlib.contextmanager
    def _steering(self, result: ReplayResult) -> Iterator[None]:
        """Hold whatever must be in place while the answering model runs."""
        with contextlib.ExitStack() as held:
            if self.config.method == "base":
                held.enter_context(self.pair.as_base())
            if result.injection is not None:
                held.enter_context(result.injection.into(self.pair.policy))
            yield

    def score(self, inputs: Inputs, result: ReplayResult, continuation: Tensor) -> Tensor:
        """Return the policy's log-probabilities (batch, t) of given tokens, with x in place.

        ``continuation`` (batch, t) are the ids that follow the prompt. In nats, float32.
        """
        inputs = left_padded(inputs)
        prompt = inputs["input_ids"]
        for name, tail in {
            "input_ids": continuation,
            "attention_mask": torch.ones_like(continuation),
            "mm_token_type_ids": torch.zeros_like(continuation),
            "token_type_ids": torch.zeros_like(continuation),
        }.items():
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], tail.to(inputs[name])], dim=1)
        model = self.answering
        with torch.no_grad(), frozen(model), self._steering(result):
            logits = model(**self._arguments(inputs, result), use_cache=False).logits
        ours = logits[:, prompt.shape[1] - 1 : -1].float().log_softmax(-1)
        return ours.gather(-1, continuation.to(ours.device).unsqueeze(-1)).squeeze(-1)

    def _arguments(self, inputs: Inputs, result: ReplayResult) -> dict[str, Any]:
        """Return the forward's arguments with x added to the visual features."""
        features, delta = result.features, result.delta
        if features is None:
            return dict(inputs)
        text: dict[str, Any] = without_pixels(self.pair.policy.model, inputs)
        seen = features.with_features(features.flat) if delta is None else features.plus(delta)
        return {**text, "mm_encoder_outputs": seen}

    def generate(self, **arguments: Any) -> Any:
        """Answer as ``model.generate`` does, after finding how to steer the batch.

        ``arguments`` are the processor's output and any generation options, mixed, as transformers
        takes them. ``method=none`` and ``base`` call that model's own ``generate`` unchanged.
        """
        if not self.config.steers:
            with self.pair.as_base() if self.config.method == "base" else contextlib.nullcontext():
                return self.answering.generate(**arguments)
        inputs, generation = split_arguments(self.pair.policy, arguments)
        return self.decode(inputs, self.optimise(inputs), **generation)


def split_arguments(
    anatomy: Anatomy, arguments: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split what ``generate`` takes into the processor's tensors and the generation options.

    Raises:
        UsageError: something of the processor's output is missing (:func:`check_complete`).
    """
    forward = inspect.signature(anatomy.model.forward).parameters
    # Some processors leave second_per_grid_ts a list.
    inputs = {
        name: value if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in arguments.items()
        if name in forward and isinstance(value, Tensor | list)
    }
    check_complete(anatomy.model, inputs)
    return inputs, {k: v for k, v in arguments.items() if k not in inputs}


def _own(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that autograd may save, whatever mode they were made in."""
    return {k: v.clone() if v.is_inference() else v for k, v in inputs.items()}


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
