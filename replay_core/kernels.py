"""The logit lens at a few ids of each row, in two Triton kernels that copy no row of the head.

Gathered and cast to float32, the head's rows for 500 tokens and 50 ids are 0.36 GB, which a GPU
writes once and reads three times. The kernels read each row in the model's dtype, and multiply and
add in float32 as the plain way does, in an order of their own: sums differ by rounding.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values of the head that a program holds at once.
_TILE = 8192
# With more ids a tile has too few columns to be read in one piece.
MOST_IDS = 256


@triton.jit
def _read(
    normed, head, ids, logits, hidden, k, stride, padded: tl.constexpr, width: tl.constexpr
):  # pragma: no cover
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, padded)
    kept = columns < k
    which = tl.load(ids + row * k + columns, mask=kept, other=0)
    total = tl.zeros((padded,), dtype=tl.float32)
    for start in range(0, hidden, width):
        along = start + tl.arange(0, width)
        inside = along < hidden
        state = tl.load(normed + row * hidden + along, mask=inside, other=0.0)
        both = kept[:, None] & inside[None, :]
        tile = tl.load(head + which[:, None] * stride + along[None, :], mask=both, other=0.0)
        total += tl.sum(tile.to(tl.float32) * state[None, :], axis=1)
    tl.store(logits + row * k + columns, total, mask=kept)


@triton.jit
def _pull(
    by_logit, head, ids, gradient, hidden, k, stride, padded: tl.constexpr, width: tl.constexpr
):  # pragma: no cover
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, padded)
    kept = columns < k
    which = tl.load(ids + row * k + columns, mask=kept, other=0)
    weight = tl.load(by_logit + row * k + columns, mask=kept, other=0.0)
    along = tl.program_id(1) * width + tl.arange(0, width)
    inside = along < hidden
    both = kept[:, None] & inside[None, :]
    tile = tl.load(head + which[:, None] * stride + along[None, :], mask=both, other=0.0)
    total = tl.sum(tile.to(tl.float32) * weight[:, None], axis=0)
    tl.store(gradient + row * hidden + along, total, mask=inside)


def read(normed: Tensor, head: Tensor, ids: Tensor) -> Tensor:
    """Return the float32 logits (rows, k) of ``normed`` (rows, hidden) at ``ids`` (rows, k).

    ``head`` is (vocabulary, hidden), its rows contiguous, in any floating dtype.
    """
    normed, ids = normed.contiguous(), ids.contiguous()
    logits = normed.new_empty(ids.shape)
    sizes, options = _launch(normed.shape[1], ids, head)
    if len(ids):
        _read[(len(ids),)](normed, head, ids, logits, *sizes, **options)
    return logits


def pull(by_logit: Tensor, head: Tensor, ids: Tensor) -> Tensor:
    """Return ``Σ_k by_logit[r, k] · head[ids[r, k]]``, (rows, hidden), in float32."""
    by_logit, ids = by_logit.contiguous(), ids.contiguous()
    hidden = head.shape[1]
    gradient = by_logit.new_empty(len(ids), hidden)
    sizes, options = _launch(hidden, ids, head)
    if len(ids):
        blocks = triton.cdiv(hidden, options["width"])
        _pull[(len(ids), blocks)](by_logit, head, ids, gradient, *sizes, **options)
    return gradient


def _launch(hidden: int, ids: Tensor, head: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    padded = triton.next_power_of_2(ids.shape[1])
    return (hidden, ids.shape[1], head.stride(0)), {"padded": padded, "width": _TILE // padded}


def agrees(device: torch.device) -> bool:
    """Return whether the kernels can be built for ``device`` and give what the plain way gives."""
    draw = torch.Generator().manual_seed(0)
    normed = torch.randn(3, 160, generator=draw).to(device)
    head = torch.randn(40, 160, generator=draw).to(device, torch.bfloat16)
    ids = torch.randint(40, (3, 5), generator=draw).to(device)
    by_logit = torch.randn(3, 5, generator=draw).to(device)
    rows = head[ids].double()
    logits = (rows * normed.double()[:, None]).sum(-1)
    gradient = (rows * by_logit.double()[..., None]).sum(1)
    return torch.allclose(read(normed, head, ids).double(), logits, atol=1e-4) and torch.allclose(
        pull(by_logit, head, ids).double(), gradient, atol=1e-4
    )
