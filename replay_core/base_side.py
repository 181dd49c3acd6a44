"""The base's part of replay and injection: from its pass, or from the store of its pair."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from replay_core.candidates import Window
from replay_core.config import ReplayConfig
from replay_core.injection import CleanPass, Injection, clean_pass, injection_of
from replay_core.model.anatomy import Anatomy
from replay_core.model.devices import on_device
from replay_core.model.padding import attention_mask_of
from replay_core.model.vision import Inputs, VisualFeatures
from replay_core.outcome import SampleReplay
from replay_core.pair.pair import Pair, frozen
from replay_core.remembered import Remembered
from replay_core.targets import (
    BaseReading,
    ReplayTargets,
    base_reading,
    base_targets,
    prompt_of,
    settings_of,
)


@dataclass(frozen=True)
class BaseSide:
    """What one set of settings asks of a pair's base; ``layers`` are those that it names.

    Prompts are left-padded.
    """

    pair: Pair
    config: ReplayConfig
    layers: Sequence[int]

    def targets(
        self,
        inputs: Inputs,
        features: VisualFeatures | None,
        window: Window,
        seeds: Sequence[int],
    ) -> tuple[ReplayTargets, bool]:
        """Return the targets of a batch, on the device of its prompts, and if a store gave them.

        ``features`` are the policy's, if they are known: an equal tower need not run twice.
        """
        remembered = self.remembered(inputs, seeds)
        reading = None if remembered is None else remembered.reading()
        stored = reading is not None
        if reading is None:
            reading = self._read(inputs, features, window)
            if remembered is not None:
                remembered.keep_reading(reading)
        with self.pair.as_base():
            targets = base_targets(
                reading.to(inputs["input_ids"].device),
                self.pair.base,
                window.candidates,
                self.config,
                seeds=seeds,
                prompt=prompt_of(inputs["input_ids"], attention_mask_of(inputs)),
                settings=self._settings,
            )
        return targets, stored

    def check(self, targets: ReplayTargets, inputs: Inputs) -> None:
        """Raise UsageError unless targets were made for these prompts, with these settings."""
        prompt = prompt_of(inputs["input_ids"], attention_mask_of(inputs))
        targets.check(prompt, self._settings)

    def remembered(self, inputs: Inputs, seeds: Sequence[int]) -> Remembered | None:
        """Return what the pair's store holds of a batch; None where the pair has no store."""
        if self.pair.store is None:
            return None
        return Remembered(self.pair.store, self.pair, self.config, self.layers, inputs, seeds)

    @property
    def _settings(self) -> str:
        base = self.pair.base
        identity = f"{self.pair.base_revision or base.name} in {base.dtype}"
        return settings_of(self.config, self.layers, identity)

    def _read(self, inputs: Inputs, features: VisualFeatures | None, window: Window) -> BaseReading:
        """Return what the base reads, on its device."""
        base = self.pair.base
        with torch.no_grad(), frozen(base.model), self.pair.as_base():
            theirs, seen = self.pair.seen_by_base(inputs, features)
            call = window.call(base, theirs, seen, max(self.layers) + 1)
            candidates = on_device(window.candidates, theirs["input_ids"].device)
            return base_reading(call, candidates, self.layers, self.config)

    def injection(
        self, inputs: Inputs, features: VisualFeatures | None, seeds: Sequence[int]
    ) -> tuple[Injection, tuple[SampleReplay, ...]]:
        """Return what is overwritten while the policy reads a batch, and what that means."""
        pair = self.pair
        window = Window.of(inputs, pair.policy, self.config, features)
        policy = self._clean_pass(pair.policy, inputs, features, window)
        with frozen(pair.base.model), pair.as_base():
            theirs, seen = pair.seen_by_base(inputs, features)
            base = self._clean_pass(pair.base, theirs, seen, window)
        samples, tokens = inputs["input_ids"].shape
        return injection_of(
            on_device(base, window.visual.device),
            policy,
            window.candidates,
            (samples, tokens),
            self.config,
            seeds=seeds,
        )

    def _clean_pass(
        self, anatomy: Anatomy, inputs: Inputs, features: VisualFeatures | None, window: Window
    ) -> CleanPass:
        call = window.call(anatomy, inputs, features, max(self.layers) + 1)
        candidates = on_device(window.candidates, inputs["input_ids"].device)
        return clean_pass(call, candidates, self.layers, self.config)
