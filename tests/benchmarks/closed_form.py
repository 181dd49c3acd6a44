"""Matmul operations of a sample in closed form: the least work, and the release's order of work.

1 multiply-add counts as 2. N visual tokens, S prompt tokens, L layers that are matched, T steps, ρ
the share of candidates that are matched. With 7B's shape the sums are those of the method's notes:
see the test.
"""

from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.shapes import Prompt, Shape

TopK = int | Literal["full"]


@dataclass(frozen=True)
class Attention:
    """How attention is counted: the share of the square of queries and keys that is computed, and
    the backward pass as a multiple of the forward."""

    share: float
    backward: float


# As a flash kernel does it: half of the square, and the scores again in the backward pass.
CAUSAL = Attention(0.5, 2.5)
# As torch's counter sees eager attention.
EAGER = Attention(1.0, 2.0)


@dataclass(frozen=True)
class Costs:
    """Unit costs of a shape."""

    shape: Shape
    attention: Attention

    @property
    def token(self) -> float:
        """The matrices of one decoder layer, for one token."""
        s = self.shape
        narrow = s.num_key_value_heads * s.head_dim
        return 2 * s.hidden_size * (2 * s.hidden_size + 2 * narrow + 3 * s.intermediate_size)

    @property
    def head(self) -> float:
        """The whole vocabulary's logits of one row."""
        return 2 * self.shape.hidden_size * self.shape.vocab_size

    def scores(self, queries: int, before: int = 0) -> float:
        """One layer's attention of ``queries`` tokens that have ``before`` others before them."""
        pairs = queries * before + self.attention.share * queries**2
        if self.attention.share == 1:
            pairs = queries * (before + queries)
        return 4 * self.shape.hidden_size * pairs

    def layer(self, queries: int, before: int = 0) -> float:
        """One decoder layer's forward pass."""
        return queries * self.token + self.scores(queries, before)

    def layer_backward(self, queries: int, before: int = 0) -> float:
        """One decoder layer's gradient of activations; the weights are frozen."""
        return queries * self.token + self.attention.backward * self.scores(queries, before)

    def vision(self, visual: int, window: int = 64) -> float:
        """The vision tower. Attention in windows in all blocks but the full ones; never causal."""
        s, patches = self.shape, 4 * visual
        width, full = s.vision_hidden_size, len(range(s.vision_depth // 4 - 1, s.vision_depth, 8))
        full = full or 1
        block = 2 * width * (4 * width + 3 * s.vision_intermediate_size)
        attention = 4 * width * ((s.vision_depth - full) * min(window, patches) + full * patches)
        merged = 4 * width
        merger = 2 * merged * (merged + s.hidden_size)
        patch = 2 * (3 * 2 * 14 * 14) * width
        return patches * (s.vision_depth * block + attention + patch) + visual * merger


@dataclass(frozen=True)
class Work:
    """One sample's replay: what is asked for."""

    prompt: Prompt
    layers: int
    steps: int
    masked: float
    top_k: TopK = 50

    @property
    def rows(self) -> float:
        """The matched activations, over all layers."""
        return self.masked * self.prompt.visual * self.layers


def least_work(costs: Costs, work: Work, *, towers: int = 1) -> dict[str, float]:
    """Return the least operations of `aligned` replay and the answer's prefill, by part.

    ``towers``: 2 where the two models' vision towers differ.
    """
    n, before = work.prompt.visual, work.prompt.before
    seen = before + n
    kept = costs.shape.vocab_size if work.top_k == "full" else work.top_k
    lens = 2 * costs.shape.hidden_size * kept
    target = 0.0 if work.top_k == "full" else work.rows * lens
    return {
        "vision": towers * costs.vision(n),
        "base": work.layers * costs.layer(seen),
        "base_lens": work.layers * n * costs.head + target,
        "prefix": work.layers * costs.layer(before),
        "loop": work.steps
        * work.layers
        * (costs.layer(n, before) + costs.layer_backward(n, before)),
        "lens": work.steps * work.rows * 2 * lens,
        "prefill": costs.shape.num_hidden_layers * costs.layer(work.prompt.tokens) + costs.head,
    }


def release_order(costs: Costs, work: Work) -> dict[str, float]:
    """Return the operations of the release's order of work, by part.

    Each step runs the vision tower, the whole policy with its last logits, and reads base and
    policy over the whole vocabulary; the gradient stops at the input of the second layer's
    predecessor, since the first matched activation is the decoder's own input.
    """
    passes, s = work.steps + 2, work.prompt.tokens
    every = costs.shape.num_hidden_layers
    return {
        "vision": passes * costs.vision(work.prompt.visual),
        "forward": passes * every * costs.layer(s),
        "backward": work.steps * (work.layers - 1) * costs.layer_backward(s),
        "lens": work.layers * s * costs.head + (3 * work.steps + 2) * work.rows * costs.head,
        "last_head": (passes - 1) * s * costs.head + costs.head,
    }
