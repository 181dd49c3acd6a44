"""The positions that the mask may select, and the window of the prompts that holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from replay_core.config import ReplayConfig
from replay_core.divergence import masked_mean
from replay_core.model.anatomy import Anatomy
from replay_core.model.call import DecoderCall, decoder_call
from replay_core.model.padding import attention_mask_of
from replay_core.model.vision import Inputs, VisualFeatures, placeholder_masks
from replay_core.selection import low_mask, select


@dataclass(frozen=True)
class Candidates:
    """The prompt positions that the mask may select, over a batch of ``samples``.

    ``row`` and ``column`` (n,) index the padded prompts, sample by sample; ``group`` (n,) numbers
    the samples, or the images, over which a dynamic mask takes its maximum; ``visual`` (samples,)
    is N, each sample's number of visual tokens.
    """

    row: Tensor
    column: Tensor
    group: Tensor
    visual: Tensor

    @property
    def samples(self) -> int:
        """The batch size."""
        return len(self.visual)

    def of(self, hidden: Tensor, call: DecoderCall) -> Tensor:
        """Return (n, hidden): the candidates among ``hidden`` (batch, tokens, hidden) of a call."""
        where = self.row.to(hidden.device), (self.column - call.start).to(hidden.device)
        return hidden[where].to(self.row.device)

    def shares(self, chosen: Mapping[int, Tensor]) -> list[tuple[tuple[int, float], ...]]:
        """Return, per sample, (layer, share of its candidates that are chosen) for every layer.

        ``chosen`` maps layers to the indices (m,) of the candidates chosen there.
        """
        by_layer = []
        for index in chosen.values():
            selected = torch.zeros(len(self.row), dtype=torch.float32, device=self.row.device)
            selected[index] = 1
            by_layer.append(masked_mean(selected, self.row, self.samples).tolist())
        return [
            tuple((layer, share[sample]) for layer, share in zip(chosen, by_layer, strict=True))
            for sample in range(self.samples)
        ]

    def poisoned(self, entropies: Mapping[int, Tensor]) -> list[bool]:
        """Return, per sample, whether an entropy (n,) of some layer is not a finite number."""
        found = torch.zeros(self.samples, dtype=torch.bool, device=self.row.device)
        for values in entropies.values():
            found[self.row[~values.isfinite()]] = True
        return found.tolist()

    def chosen(
        self,
        layer: int,
        entropies: Tensor,
        config: ReplayConfig,
        generators: Sequence[torch.Generator],
        rival: Tensor | None = None,
    ) -> Tensor:
        """Return the indices (m,) of the candidates that ``config`` selects at ``layer``.

        ``entropies`` (n,) are the base's, in nats; see :func:`low_mask` for ``rival``.
        """
        low = low_mask(entropies, self.group, layer, config, rival)
        chosen = select(low, entropies, self.row, how=config.select, generators=generators)
        return torch.nonzero(chosen).squeeze(-1)


@dataclass(frozen=True)
class Window:
    """Candidates of a batch, its visual tokens (batch, tokens), and the columns between."""

    start: int
    stop: int
    visual: Tensor
    candidates: Candidates

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        anatomy: Anatomy,
        config: ReplayConfig,
        features: VisualFeatures | None = None,
    ) -> "Window":
        """Return the window of left-padded prompts, at least one of which has a candidate.

        Visual tokens are where the model put its ``features``; where these are not yet known, where
        placeholders stand.
        """
        if features is not None:
            visual = features.positions
        else:
            ids = inputs["input_ids"]
            none = torch.zeros_like(ids, dtype=torch.bool)
            masks = placeholder_masks(anatomy.model, ids)
            visual = torch.stack([none, *masks.values()]).any(0)
        candidate = visual if config.positions == "visual" else attention_mask_of(inputs).bool()
        row, column = torch.nonzero(candidate, as_tuple=True)
        group = _images(row, column) if config.maximum == "image" else row
        columns = torch.nonzero(candidate.any(0)).squeeze(-1)
        return cls(
            int(columns[0]),
            int(columns[-1]) + 1,
            visual,
            Candidates(row, column, group, visual.sum(1)),
        )

    def call(
        self, anatomy: Anatomy, inputs: Inputs, features: VisualFeatures | None, layers: int
    ) -> DecoderCall:
        """Return a model's decoder call on these columns only, of which ``layers`` will run."""
        return decoder_call(anatomy, inputs, features).window(self.start, self.stop, layers)


def _images(row: Tensor, column: Tensor) -> Tensor:
    """Return the number (n,) of the image that each visual token belongs to, over the batch.

    An image is an unbroken run of placeholder tokens: every family writes text between two. Where
    a family also writes it between the frames of a video, each frame is an image of its own.
    """
    starts = torch.ones_like(row)
    starts[1:] = ((row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)).to(row)
    return starts.cumsum(0) - 1
