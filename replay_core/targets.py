"""What one pass of the base leaves behind: which activations to match, and to what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from replay_core.candidates import Candidates
from replay_core.config import ReplayConfig
from replay_core.digest import token_digest
from replay_core.errors import UsageError
from replay_core.lens import Lens, arithmetic
from replay_core.model.anatomy import Anatomy
from replay_core.model.call import DecoderCall
from replay_core.model.devices import on_device
from replay_core.seeds import generators

_FORMAT = "activation-replay targets 1"


@dataclass(frozen=True)
class LayerTarget:
    """The base's reading of one layer at the selected candidates.

    ``index`` (m,) points into the candidates; ``log_probs`` (m, k) are normalised over ``ids``
    (m, k), or over the whole vocabulary where ``ids`` is None.
    """

    index: Tensor
    log_probs: Tensor
    ids: Tensor | None


@dataclass(frozen=True)
class ReplayTargets:
    """Masks and target distributions of a batch; all that replay needs of the base.

    ``layers``: layer → target, layers with an empty mask left out. ``entropies``: layer → the
    base's entropies in nats at all candidates (n,). ``prompt`` identifies the batch they were made
    for, ``settings`` the options that they depend on.
    """

    layers: dict[int, LayerTarget]
    entropies: dict[int, Tensor]
    prompt: str
    settings: str

    def to(self, device: torch.device) -> "ReplayTargets":
        """Return the same targets on another device."""
        return on_device(self, device)

    def save(self, path: str | Path) -> None:
        """Write the targets to a safetensors file."""
        tensors = {}
        for layer, values in self.entropies.items():
            tensors[f"{layer}.entropies"] = values.contiguous()
        for layer, target in self.layers.items():
            tensors[f"{layer}.index"] = target.index.contiguous()
            tensors[f"{layer}.log_probs"] = target.log_probs.contiguous()
            if target.ids is not None:
                tensors[f"{layer}.ids"] = target.ids.contiguous()
        notes = {"format": _FORMAT, "prompt": self.prompt, "settings": self.settings}
        save_file(tensors, path, metadata=notes)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "ReplayTargets":
        """Read targets back.

        Raises:
            UsageError: the file holds something else.
        """
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                notes = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{path} cannot be read as replay targets ({error})") from error
        if notes.get("format") != _FORMAT:
            raise UsageError(
                f"{path} holds {notes.get('format', 'no replay targets')!r}, not {_FORMAT!r}"
            )
        entropies, layers = {}, {}
        for key in sorted(tensors, key=lambda key: int(key.split(".")[0])):
            layer, part = key.split(".")
            if part == "entropies":
                entropies[int(layer)] = tensors[key]
            elif part == "index":
                layers[int(layer)] = LayerTarget(
                    tensors[key], tensors[f"{layer}.log_probs"], tensors.get(f"{layer}.ids")
                )
        return cls(layers, entropies, notes["prompt"], notes["settings"])

    def check(self, prompt: str, settings: str) -> None:
        """Raise UsageError unless these targets were made for these prompts with these settings.

        Prompts are compared by their tokens, not by their pixels: another picture of the same size
        may lend its targets, as in the shuffled-base control.
        """
        if self.prompt != prompt:
            raise UsageError(
                f"these targets were made for other prompts ({self.prompt}, not {prompt})"
            )
        if self.settings != settings:
            raise UsageError(
                f"these targets were made with {self.settings}; this run asks for {settings}"
            )


@dataclass(frozen=True)
class BaseReading:
    """What the base's lens reads at all candidates (n,), whatever mask is then laid over them.

    By layer: ``entropies`` (n,) in nats over the whole vocabulary; the k most probable ``ids`` (n,
    k) and their ``log_probs`` (n, k), normalised over them. Where the loss is over the whole
    vocabulary there are ``states`` (n, hidden) in the place of the two, the activations themselves:
    152,064 numbers a candidate would be too many to keep.

    It is what a store keeps, so that another γ needs no pass of the base: masks follow from the
    entropies, targets from the rows that they select. For 1,000 candidates, 16 layers and k = 50
    that is 6.5 MB, where activations of 3,584 bfloat16 values are 115 MB and want the base's norm
    and head to be read. Targets are taken from a reading in the same way with and without a store,
    so that both are bitwise equal by construction.
    """

    entropies: dict[int, Tensor]
    log_probs: dict[int, Tensor]
    ids: dict[int, Tensor]
    states: dict[int, Tensor]

    def to(self, device: torch.device) -> "BaseReading":
        """Return the same reading on another device."""
        return on_device(self, device)

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name, as a file holds them; ids need 32 bits there."""
        named = {}
        for part in fields(self):
            for layer, values in getattr(self, part.name).items():
                named[f"{layer}.{part.name}"] = values.int() if part.name == "ids" else values
        return named

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "BaseReading":
        """Return the reading that :meth:`tensors` was taken of."""
        parts: dict[str, dict[int, Tensor]] = {part.name: {} for part in fields(cls)}
        for name in sorted(tensors, key=lambda name: int(name.partition(".")[0])):
            layer, _, part = name.partition(".")
            parts[part][int(layer)] = tensors[name].long() if part == "ids" else tensors[name]
        return cls(**parts)


@torch.no_grad()
def base_reading(
    call: DecoderCall, candidates: Candidates, layers: Sequence[int], config: ReplayConfig
) -> BaseReading:
    """Run the base once, through the layers that are matched, and keep what replay needs.

    ``call`` is the base's decoder call on the columns that hold the candidates. The logits at the
    most probable ids are read again through :meth:`Lens.log_probs`, as the policy's will be, so
    that equal activations give a divergence of 0.
    """
    lens = Lens(call.anatomy, arithmetic(config, call.anatomy.dtype))
    reading = BaseReading({}, {}, {}, {})
    states = call.activations(layers, where="after")
    for layer in layers:
        hidden = candidates.of(states.pop(layer), call)
        reading.entropies[layer], top = lens.entropies(hidden, config.top_k)
        if top is None:
            reading.states[layer] = hidden
        else:
            reading.ids[layer], reading.log_probs[layer] = top, lens.log_probs(hidden, top)
    return reading


@torch.no_grad()
def base_targets(
    reading: BaseReading,
    base: Anatomy,
    candidates: Candidates,
    config: ReplayConfig,
    *,
    seeds: Sequence[int],
    prompt: str,
    settings: str,
) -> ReplayTargets:
    """Return masks and targets from what the base reads at the candidates.

    ``base`` is asked only where the loss is over the whole vocabulary. ``seeds``, one per sample,
    draw the positions of ``select=random``.

    Raises:
        UsageError: there is not one seed for each sample.
    """
    drawing = generators(seeds, candidates.samples)
    targets = {}
    for layer, entropies in reading.entropies.items():
        index = candidates.chosen(layer, entropies, config, drawing)
        if len(index) == 0:
            continue
        if layer in reading.states:
            lens = Lens(base, arithmetic(config, base.dtype))
            log_probs, ids = lens.log_probs(reading.states[layer][index], None), None
        else:
            log_probs, ids = reading.log_probs[layer][index], reading.ids[layer][index]
        targets[layer] = LayerTarget(index, log_probs, ids)
    return ReplayTargets(targets, reading.entropies, prompt, settings)


def settings_of(config: ReplayConfig, layers: Sequence[int], base: str) -> str:
    """Return, as JSON, what targets depend on; ``base`` identifies the base and its dtype."""
    used = config.model_dump(
        mode="json",
        include={
            *("select", "boundary", "top_k", "positions", "seed"),
            *("threshold", "maximum", "thresholds"),
        },
    )
    return json.dumps({**used, "layers": list(layers), "base": base}, sort_keys=True)


def prompt_of(input_ids: Tensor, attention_mask: Tensor) -> str:
    """Return 16 hexadecimal digits for a batch of prompts, whatever its padding."""
    rows = zip(input_ids, attention_mask, strict=True)
    return token_digest(*(row[kept.bool()] for row, kept in rows))
