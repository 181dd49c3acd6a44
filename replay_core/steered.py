"""Replay as a drop-in for ``model.generate``: optimise the visual tokens, then decode."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from replay_core.amortised import start_of
from replay_core.base_side import BaseSide
from replay_core.candidates import Window
from replay_core.config import ReplayConfig
from replay_core.decoding.vllm import VllmDecoder
from replay_core.descent import describe, randomised
from replay_core.digest import token_digest
from replay_core.errors import UsageError
from replay_core.faults import out_of_memory, told
from replay_core.injection import Injection
from replay_core.memory import descend_in_memory
from replay_core.meter import Meter
from replay_core.model.doors import check_backward
from replay_core.model.inputs import continued, savable, split_arguments
from replay_core.model.padding import attention_mask_of, left_padded
from replay_core.model.vision import (
    PIXELS,
    Inputs,
    VisualFeatures,
    check_pictured,
    visual_features,
    without_pixels,
)
from replay_core.outcome import Outcome
from replay_core.pair.pair import Pair, frozen
from replay_core.problem import ReplayProblem
from replay_core.record import Seconds
from replay_core.remembered import check_known
from replay_core.result import ReplayResult, raise_failure
from replay_core.seeds import check_seeds, stable_seed
from replay_core.targets import ReplayTargets


class Steered:
    """A pair that answers like its policy, with the visual tokens optimised first.

    Five lines without a harness::

        pair = load_pair("me/my-rl", "me/my-base")
        steered = Steered(pair, ReplayConfig(threshold=0.4, step_size=10))
        result = steered.optimise(inputs)        # the processor's whole output
        ids = steered.decode(inputs, result, max_new_tokens=64)
        print(result.samples[0].outcome, result.samples[0].loss_after)

    Prompts may be padded on either side; right padding is turned into left padding, so that
    answers begin behind the prompt in every row. Both models are left as they are found. The pair's
    store, if it has one, spares what was computed before: the base's pass, or x. ``decoder``
    writes the answers, where not the model's own ``generate``.

    Raises:
        UsageError: a layer is asked for that the models do not have, or that the base has lost, or
            a pair with a store was not loaded from checkpoints, or ``start`` is another pair's, or
            ``inject`` is to be decoded with vLLM.
    """

    def __init__(
        self,
        pair: Pair,
        config: ReplayConfig | None = None,
        decoder: VllmDecoder | None = None,
    ) -> None:
        self.pair, self.decoder = pair, decoder
        self.config = ReplayConfig() if config is None else config
        self.layers = self.config.layer_indices(
            pair.policy.model.config.get_text_config().num_hidden_layers
        )
        if decoder is not None and self.config.method == "inject":
            raise UsageError(
                "method=inject overwrites activations inside the policy, which vLLM has no door "
                "for; take decode=transformers"
            )
        self._base_side = BaseSide(pair, self.config, self.layers)
        held, whole = pair.base.depth, pair.policy.depth
        needed = whole if self.config.method == "base" else max(self.layers) + 1
        if self.config.method not in ("none", "amortised") and held < needed:
            raise UsageError(
                f"the base was loaded with base_layers={held}, but this run needs {needed} of its "
                "layers"
            )
        self._start = None
        if (start := self.config.starts) is not None:
            base = pair.base_revision if self.config.asks_base else None
            self._start = start_of(start, pair.policy_revision, base).to(pair.policy.model.device)
        if self.config.method == "replay":
            check_backward(pair.policy)
            if pair.store is not None:
                check_known(pair)

    def optimise(
        self,
        inputs: Inputs,
        *,
        targets: ReplayTargets | None = None,
        seeds: Sequence[int] | None = None,
        kept: Sequence[Tensor | None] = (),
    ) -> ReplayResult:
        """Return how a batch of prompts is steered (``inputs``: the processor's whole output).

        ``targets``, from :meth:`targets`, spare the base's pass of replay. ``seeds``, one per
        sample, draw the positions of the random arms; without them they follow from the prompts.
        ``kept``, of each sample, is the x (tokens, hidden) of its first visual tokens that an
        earlier prompt had too (``ReplayResult.of``): it stays as it is, the others' x is found.

        Raises:
            UsageError: there is not one seed for each sample, or pixels are missing.
            ReplayError: with ``config.strict``, when a sample diverges or is not finite.
            torch.OutOfMemoryError, MemoryError or RuntimeError: memory ran out, with
                ``config.strict``; else an outcome, like those.
        """
        meter = Meter(self.pair.policy.model.device)
        batch = len(inputs["input_ids"])
        if seeds is not None:
            check_seeds(seeds, batch)
        if not self.config.steers:
            return ReplayResult.untouched(Outcome.OFF, batch)
        policy = self.pair.policy.model
        injects = self.config.method == "inject"
        with torch.inference_mode(False), torch.enable_grad(), frozen(policy):
            inputs = savable(left_padded(inputs))
            seeds = self.seeds(inputs) if seeds is None else seeds
            features = None
            try:
                features = visual_features(policy, inputs)
                if features is None and not (injects and self.config.positions == "input"):
                    return ReplayResult.untouched(Outcome.NO_VISUAL_TOKENS, batch)
                if features is None or injects:
                    result = self._inject(inputs, features, seeds, meter)
                elif self.config.method == "amortised":
                    result = self._amortise(features, meter)
                else:
                    result = self._replay(inputs, features, targets, seeds, meter, kept)
            except Exception as error:
                if self.config.strict or not out_of_memory(error):
                    raise
                problem = told(error)
            else:
                if self.config.strict:
                    raise_failure(result.samples)
                return result
        torch.cuda.empty_cache()
        return ReplayResult.untouched(Outcome.OUT_OF_MEMORY, batch, features, error=problem)

    def _replay(
        self,
        inputs: Inputs,
        features: VisualFeatures,
        targets: ReplayTargets | None,
        seeds: Sequence[int],
        meter: Meter,
        kept: Sequence[Tensor | None],
    ) -> ReplayResult:
        """Return the x of a batch that has pictures."""
        window = Window.of(inputs, self.pair.policy, self.config, features)
        usual = targets is None and all(one is None for one in kept)
        remembered = self._base_side.remembered(inputs, seeds) if usual else None
        if remembered is not None and (found := remembered.x()) is not None:
            x, samples = found
            return ReplayResult(
                x.to(window.visual.device),
                features,
                samples,
                seconds=Seconds(base=meter.lap()),
                peak_memory_mb=meter.peak_mb,
                stored="x",
            )
        stored = False
        if targets is None:
            targets, stored = self._base_side.targets(inputs, features, window, seeds)
        else:
            self._base_side.check(targets, inputs)
        problem = self._posed(inputs, features, window, targets, kept)
        before = meter.lap()
        descent, memory = descend_in_memory(problem)
        if self.config.x == "random":
            descent = randomised(problem, descent, seeds)
        samples = describe(problem, descent)
        seconds = Seconds(base=before, loop=meter.lap())
        if remembered is not None:
            remembered.keep_x(descent.delta, samples)
        return ReplayResult(
            descent.delta,
            features,
            samples,
            seconds=seconds,
            peak_memory_mb=meter.peak_mb,
            memory=memory,
            stored="targets" if stored else None,
        )

    def _inject(
        self,
        inputs: Inputs,
        features: VisualFeatures | None,
        seeds: Sequence[int],
        meter: Meter,
    ) -> ReplayResult:
        """Return what is overwritten while the policy reads a batch."""
        injection, samples = self._base_side.injection(inputs, features, seeds)
        spent, peak = Seconds(base=meter.lap()), meter.peak_mb
        return ReplayResult(None, features, samples, injection, spent, peak)

    def _amortise(self, features: VisualFeatures, meter: Meter) -> ReplayResult:
        """Return the x that the map in ``start`` gives a batch, for which no base is asked."""
        assert self._start is not None  # the settings say so
        x, samples = self._start.taken(features)
        spent, peak = Seconds(loop=meter.lap()), meter.peak_mb
        return ReplayResult(x, features, samples, None, spent, peak)

    def problem(self, inputs: Inputs, *, seeds: Sequence[int] | None = None) -> ReplayProblem:
        """Return the loss of a batch as a function of x, as :meth:`optimise` minimises it.

        Raises:
            UsageError: there is not one seed for each sample, or pixels are missing.
            ValueError: the batch has no visual tokens, so that there is nothing to match.
        """
        with torch.inference_mode(False), frozen(self.pair.policy.model):
            inputs = savable(left_padded(inputs))
            features = visual_features(self.pair.policy.model, inputs)
            if features is None:
                raise ValueError("these prompts have no visual tokens, so there is no loss")
            window = Window.of(inputs, self.pair.policy, self.config, features)
            seeds = self.seeds(inputs) if seeds is None else seeds
            targets, _ = self._base_side.targets(inputs, features, window, seeds)
            return self._posed(inputs, features, window, targets)

    def _posed(
        self,
        inputs: Inputs,
        features: VisualFeatures,
        window: Window,
        targets: ReplayTargets,
        kept: Sequence[Tensor | None] = (),
    ) -> ReplayProblem:
        # "Before layer l" is behind layer l - 1, so that l itself need not run.
        depth = max(self.layers) + (self.config.side == "after")
        call = window.call(self.pair.policy, inputs, features, depth)
        problem = ReplayProblem(call, window.candidates, features, targets, self.config, kept=kept)
        return problem if self._start is None else problem.begun_at(self._start(features.flat))

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
        policy = self.pair.policy
        if seeds is not None:
            check_seeds(seeds, len(inputs["input_ids"]))
        with torch.inference_mode(False):
            inputs = savable(left_padded(inputs))
            if not any(key in inputs for key in PIXELS):
                check_pictured(policy.model, inputs["input_ids"])
                raise ValueError("these prompts have no visual tokens, so there are no targets")
            seeds = self.seeds(inputs) if seeds is None else seeds
            window = Window.of(inputs, policy, self.config)
            return self._base_side.targets(inputs, None, window, seeds)[0]

    def seeds(self, inputs: Inputs) -> list[int]:
        """Return one seed per sample, from ``config.seed`` and the prompt's own tokens."""
        rows = zip(inputs["input_ids"], attention_mask_of(inputs).bool(), strict=True)
        return [stable_seed(self.config.seed, token_digest(row[kept])) for row, kept in rows]

    @property
    def decoder_name(self) -> str:
        """Who writes the answers, with its version where that is not in every record."""
        return "transformers" if self.decoder is None else self.decoder.name

    def decode(
        self,
        inputs: Inputs,
        result: ReplayResult,
        *,
        seeds: Sequence[int] | None = None,
        **generation: Any,
    ) -> Any:
        """Return what the policy's own ``generate`` returns for the prompts with x in place.

        ``generation`` is passed on: greedy, sampled, beams, ``num_return_sequences`` … With a
        ``decoder`` it is what that one does, whose sampled answers are drawn with ``seeds``, one
        for each prompt.
        """
        if self.decoder is not None:
            prompts = left_padded(inputs) if self.config.steers else inputs
            seeds = self.seeds(inputs) if seeds is None else seeds
            return self.decoder.decode(self.answering, prompts, result, generation, seeds)
        # One model left alone answers what it is given, padded as it is.
        prompts = left_padded(inputs) if self.config.steers else inputs
        arguments = self._arguments(prompts, result)
        with self._steering(result.injection):
            return self.answering.generate(**arguments, **generation)

    @contextlib.contextmanager
    def _steering(self, injection: Injection | None = None) -> Iterator[None]:
        """Hold whatever must be in place while the answering model runs."""
        with contextlib.ExitStack() as held:
            if self.config.method == "base":
                held.enter_context(self.pair.as_base())
            if injection is not None:
                held.enter_context(injection.into(self.pair.policy))
            yield

    def score(self, inputs: Inputs, result: ReplayResult, continuation: Tensor) -> Tensor:
        """Return the policy's log-probabilities (batch, t) of given tokens, with x in place.

        ``continuation`` (batch, t) are the ids that follow the prompt. In nats, float32.
        """
        prompt = inputs["input_ids"].shape[1]
        longer = continued(left_padded(inputs), continuation)
        model = self.answering
        with torch.no_grad(), frozen(model), self._steering(result.injection):
            logits = model(**self._arguments(longer, result), use_cache=False).logits
        ours = logits[:, prompt - 1 : -1].float().log_softmax(-1)
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
            with self._steering():
                return self.answering.generate(**arguments)
        inputs, generation = split_arguments(self.pair.policy, arguments)
        return self.decode(inputs, self.optimise(inputs), **generation)
