"""What a study asks questions of: a pair, the documents of a task, and the task's own scores.

A harness gives one, so that prompts and scores are its own; the tests give one with planted
numbers.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from replay_core.config import ReplayConfig
from replay_core.model.vision import MODALITIES, PIXELS
from replay_core.pair.pair import Pair


@dataclass(frozen=True)
class Prompts:
    """One batch as the harness gave it to ``model.generate``.

    ``inputs`` are the processor's tensors, ``generation`` the other arguments, ``documents`` the
    document of each row.
    """

    inputs: dict[str, Tensor]
    generation: dict[str, Any]
    documents: tuple[int, ...]

    def digests(self, placeholders: Sequence[int]) -> list[str]:
        """Return 16 hexadecimal digits per row, of its tokens and pixels, whatever its padding.

        ``placeholders`` are the model's ids of visual tokens. Where pixels stand in proportion to
        them (Qwen's flat patches), or one block per row, each row has its own; else the batch's.
        """
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"].bool()
        visual = [int(torch.isin(row, row.new_tensor(placeholders)).sum()) for row in ids]
        starts = [sum(visual[:i]) for i in range(len(visual) + 1)]
        texts = [str(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
        states = [hashlib.sha256(text.encode()) for text in texts]
        for name in PIXELS:
            if name not in self.inputs:
                continue
            pixels = self.inputs[name].detach().cpu().contiguous()
            per_token, left = divmod(len(pixels), max(starts[-1], 1))
            for row, state in enumerate(states):
                if left == 0:
                    mine = pixels[starts[row] * per_token : starts[row + 1] * per_token]
                else:
                    mine = pixels[row] if len(pixels) == len(ids) else pixels
                state.update(mine.contiguous().view(torch.uint8).numpy().tobytes())
        return [state.hexdigest()[:16] for state in states]


Respond = Callable[[Prompts], Tensor]


@dataclass(frozen=True)
class Question:
    """What a document asks, for people: its text, its right answer and its first picture."""

    text: str
    target: str
    picture: Image.Image | None


class Bench(Protocol):
    """A pair and a task. Documents are numbers; texts are answers."""

    name: str
    """The task."""
    batch_size: int
    pair: Pair
    """Both models whole, so that every arm can answer."""
    config: ReplayConfig
    """The replay settings that were asked for."""

    def identity(self) -> dict[str, Any]:
        """Return what every measurement on this bench depends on, beside the arms' settings."""
        ...

    def documents(self, n: int | None, offset: int = 0) -> list[int]:
        """Return the first ``n`` documents behind ``offset``; all where None.

        Raises:
            UsageError: there are none.
        """
        ...

    def prompts(self, documents: Sequence[int]) -> list[Prompts]:
        """Return the batches that are made of documents, without answering them."""
        ...

    def answer(self, documents: Sequence[int], respond: Respond) -> list[str]:
        """Return one text per document; ``respond`` stands in for ``model.generate``.

        It is given each batch, and returns prompts and answers as ``generate`` does.
        """
        ...

    def score(self, document: int, text: str, metric: str | None = None) -> float:
        """Return the task's own score of a text; ``metric`` is the task's first where None.

        Raises:
            UsageError: the task gives no number under that name.
        """
        ...

    def seed(self, document: int, repeat: int = 0, seed: int | None = None) -> int:
        """Return the seed of one answer; ``seed`` stands in for the settings' own."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of an answer, with the one that ends it."""
        ...

    def decode(self, tokens: Sequence[int]) -> list[str]:
        """Return each token as text."""
        ...

    def question(self, document: int) -> Question:
        """Return what a document asks."""
        ...


def digests(bench: Bench, prompts: Prompts) -> list[str]:
    """Return what identifies each row of a batch: equal for byte-identical prompts."""
    config = bench.pair.policy.model.config
    tokens = [getattr(config, f"{modality}_token_id", None) for modality in MODALITIES]
    return prompts.digests([token for token in tokens if token is not None])


def chunks(bench: Bench, documents: Sequence[int]) -> Iterator[list[int]]:
    """Yield documents in groups of the bench's batch size."""
    for start in range(0, len(documents), bench.batch_size):
        yield list(documents[start : start + bench.batch_size])
