"""Direct injection: overwrite the policy's activations by the base's while the prompt is read.

Xing et al. 2025, Table 1; also what their release runs for DeepEyes and Video-R1. The aligned
reading overwrites the output of decoder layer l, the reference reading its input, as the release
does. Every pass that reads the prompt is edited: the prefill alone where the answer follows through
the cache, each token's pass where there is none (``use_cache=False``).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from replay_core.candidates import Candidates
from replay_core.config import ReplayConfig
from replay_core.divergence import masked_mean
from replay_core.errors import ReplayError
from replay_core.lens import Lens, arithmetic
from replay_core.model.anatomy import Anatomy
from replay_core.model.call import CACHES, DecoderCall
from replay_core.model.hooks import Where, capture, entering, hooked
from replay_core.outcome import Outcome, SampleReplay
from replay_core.seeds import generators


@dataclass(frozen=True)
class Edit:
    """What is overwritten at one layer: ``values`` (m, hidden) at ``row`` and ``column`` (m,)."""

    row: Tensor
    column: Tensor
    values: Tensor

    def into(self, hidden: Tensor, samples: int) -> Tensor:
        """Return ``hidden`` (samples · copies, tokens, hidden) with the values in place.

        ``generate`` repeats each prompt when it searches with beams or draws several answers.
        """
        copies = hidden.shape[0] // samples
        each = torch.arange(copies, device=hidden.device)
        rows = (self.row.to(hidden.device)[:, None] * copies + each).flatten()
        columns = self.column.to(hidden.device).repeat_interleave(copies)
        values = self.values.to(hidden).repeat_interleave(copies, dim=0)
        return hidden.index_put((rows, columns), values)


@dataclass(frozen=True)
class Injection:
    """The edits of one batch of left-padded prompts, (samples, tokens) in ``shape``: layer → edit.

    ``where`` says whether the output (``after``) or the input (``before``) of a layer is edited.
    """

    edits: dict[int, Edit]
    where: Where
    shape: tuple[int, int]

    @contextlib.contextmanager
    def into(self, anatomy: Anatomy) -> Iterator[None]:
        """Edit the passes inside the block that begin with the prompt; the model is left as found.

        Raises:
            ReplayError: such a pass did not read the whole prompts at once, so that positions would
                be wrong, or there was none.
        """
        waiting = set(self.edits)
        from_start = False

        def begin(arguments: dict[str, Any]) -> None:
            nonlocal from_start
            from_start = _tokens_before(arguments) == 0

        def edited(layer: int, hidden: Tensor) -> Tensor | None:
            if not from_start:
                return None
            samples, tokens = self.shape
            if hidden.shape[0] % samples or hidden.shape[1] < tokens:
                raise ReplayError(
                    f"injection needs prompts of {samples} rows and {tokens} tokens in one pass, "
                    f"but the policy read {tuple(hidden.shape[:2])}"
                )
            waiting.discard(layer)
            return self.edits[layer].into(hidden, samples)

        with (
            entering(anatomy.decoder, begin),
            hooked(anatomy.layers, self.edits, edited, where=self.where),
        ):
            yield
        if waiting:
            raise ReplayError(f"injection did not reach layers {sorted(waiting)} of the policy")


def _tokens_before(arguments: Mapping[str, Any]) -> int:
    """Return how many tokens a decoder call has behind it, in the cache that it is given."""
    given = (arguments.get(name) for name in CACHES)
    cache = next((cache for cache in given if cache is not None), None)
    return 0 if cache is None else int(cache.get_seq_length())


@dataclass(frozen=True)
class CleanPass:
    """What one clean pass of a model leaves for injection, at the candidates (n,) of a batch.

    ``states``: layer → (n, hidden), before or after the layer as ``boundary`` wants.
    ``entropies``: layer → (n,), always of what stands after the layer, in nats.
    """

    states: dict[int, Tensor]
    entropies: dict[int, Tensor]


@torch.no_grad()
def clean_pass(
    call: DecoderCall, candidates: Candidates, layers: Sequence[int], config: ReplayConfig
) -> CleanPass:
    """Run a model once, through the last of ``layers``, and return what injection needs of it."""
    lens = Lens(call.anatomy, arithmetic(config, call.anatomy.model.dtype))
    with capture(call.anatomy.layers, layers, where="before", stop=False) as before:
        after = call.activations(layers, where="after")
    entropies = {layer: lens.entropies(candidates.of(after[layer], call))[0] for layer in layers}
    seen = before if config.side == "before" else after
    return CleanPass({layer: candidates.of(seen[layer], call) for layer in layers}, entropies)


def injection_of(
    base: CleanPass,
    policy: CleanPass,
    candidates: Candidates,
    shape: tuple[int, int],
    config: ReplayConfig,
    *,
    seeds: Sequence[int],
) -> tuple[Injection, tuple[SampleReplay, ...]]:
    """Return what is overwritten in a batch of ``shape`` (samples, tokens), and what that means.

    A sample is left alone where an entropy of the base is not finite, or where its chosen
    activations equal the policy's.

    Raises:
        UsageError: there is not one seed for each sample.
    """
    reference = config.boundary == "reference"
    drawing = generators(seeds, candidates.samples)
    chosen = {
        layer: candidates.chosen(
            layer,
            entropies,
            config,
            drawing,
            policy.entropies[layer] if reference else None,
        )
        for layer, entropies in base.entropies.items()
    }
    samples = _described(base, policy, candidates, chosen)
    applied = torch.tensor([sample.outcome is Outcome.APPLIED for sample in samples])
    edits = {}
    for layer, index in chosen.items():
        kept = index[applied.to(index.device)[candidates.row[index]]]
        if len(kept):
            row, column = candidates.row[kept], candidates.column[kept]
            edits[layer] = Edit(row, column, base.states[layer][kept])
    return Injection(edits, config.side, shape), samples


def _described(
    base: CleanPass, policy: CleanPass, candidates: Candidates, chosen: dict[int, Tensor]
) -> tuple[SampleReplay, ...]:
    """Name every sample's outcome; norms are means over the selected activations of all layers."""
    samples = candidates.samples
    fractions, poisoned = candidates.shares(chosen), candidates.poisoned(base.entropies)
    owner = torch.cat([candidates.row[index] for index in chosen.values()])
    changes = [
        _changes(base.states[layer][index], policy.states[layer][index])
        for layer, index in chosen.items()
    ]
    asked = torch.bincount(candidates.row, minlength=samples).tolist()
    counts = torch.bincount(owner, minlength=samples).tolist()
    means = [
        masked_mean(torch.cat(values), owner, samples).tolist()
        for values in zip(*changes, strict=True)
    ]
    described = []
    for sample, (share, feature_norm, delta_norm) in enumerate(zip(*means, strict=True)):
        if not asked[sample]:
            outcome = Outcome.NO_VISUAL_TOKENS
        elif poisoned[sample]:
            outcome = Outcome.NON_FINITE
        elif counts[sample] == 0:
            outcome = Outcome.EMPTY_MASK
        else:
            outcome = Outcome.APPLIED if share > 0 else Outcome.NO_DRIFT
        visual = int(candidates.visual[sample])
        found = SampleReplay(outcome, visual, masked_fraction=fractions[sample])
        if outcome is Outcome.APPLIED:
            found = replace(
                found, changed_fraction=share, feature_norm=feature_norm, delta_norm=delta_norm
            )
        described.append(found)
    return tuple(described)


def _changes(base: Tensor, policy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, per activation (m, hidden): its share of other elements, its norm, the step's."""
    changed = (base != policy).float().mean(-1)
    base, policy = base.float(), policy.float()
    return changed, policy.norm(dim=-1), (base - policy).norm(dim=-1)
