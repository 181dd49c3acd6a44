"""Which columns of a batch's prompts a pass needs: from the first candidate to the last."""

from dataclasses import dataclass

import torch
from torch import Tensor

from replay_core.config import ReplayConfig
from replay_core.model.anatomy import Anatomy, Inputs, VisualFeatures, placeholder_masks
from replay_core.model.call import DecoderCall
from replay_core.model.padding import attention_mask_of
from replay_core.targets import Candidates


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

    def cut(self, call: DecoderCall, layers: int) -> DecoderCall:
        """Return the call for these columns only, of which ``layers`` layers will run."""
        return call.window(self.start, self.stop, layers)


def _images(row: Tensor, column: Tensor) -> Tensor:
    """Return the number (n,) of the image that each visual token belongs to, over the batch.

    An image is an unbroken run of placeholder tokens: every family writes text between two. Where
    a family also writes it between the frames of a video, each frame is an image of its own.
    """
    starts = torch.ones_like(row)
    starts[1:] = ((row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)).to(row)
    return starts.cumsum(0) - 1
